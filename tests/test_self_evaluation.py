"""Self-evaluation: the wording that training and use share, and the probabilities of the three verdicts."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from hf_icon2 import PADConfig, PADTrainer, tune
from hf_icon2.judges.chains import split_chain
from hf_icon2.judges.evaluation_wording import evaluation_prompt
from hf_icon2.judges.self_evaluation import (
    Reasoned,
    SelfEvaluator,
    self_evaluate,
)
from hf_icon2.judges.verdicts import VERDICTS
from hf_icon2.toy.reasoning import evaluation_prompt as toy_wording
from hf_icon2.toy.reasoning import sums

ITEMS = [
    Reasoned("What is 3 plus 4?", "3 plus 4 is 7.", "7"),
    Reasoned("Tom has 2 pens and buys 5. How many has he?", "Tom starts with 2. 2 plus 5 is 8.", "8"),
    Reasoned("Why?", "It depends.", "nobody knows"),
]


@pytest.fixture(scope="module")
def tiny_t5():
    config = T5Config(
        vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return T5ForConditionalGeneration(config).eval()


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return {verdict: math.exp(value) / total for verdict, value in zip(VERDICTS, values, strict=True)}


def sum_of_log_probs(logits, tokens):
    """Of tokens, each predicted by the row of logits before it: logits (T, V), tokens (T,)."""
    rows = logits.double().log_softmax(-1)
    return sum(float(rows[place, token]) for place, token in enumerate(tokens))


def by_hand_causal(model, tokenizer, prompt, verdict):
    """One plain pass over the rendered conversation; the answer's tokens are those after the generation prompt."""
    if tokenizer.chat_template is None:
        opened, whole = f"{prompt}\n", f"{prompt}\n{verdict}"
    else:
        turn = [{"role": "user", "content": prompt}]
        opened = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        turn.append({"role": "assistant", "content": verdict})
        whole = tokenizer.apply_chat_template(turn, tokenize=False)
    start = len(tokenizer(opened, add_special_tokens=False)["input_ids"])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    return sum_of_log_probs(logits[start - 1 : -1], ids[start:])


def by_hand_t5(model, tokenizer, prompt, verdict):
    """One plain pass: the decoder reads its start token and then the verdict."""
    ids = tokenizer(prompt)["input_ids"]
    target = [*tokenizer(verdict)["input_ids"], 2]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])).logits[0]
    return sum_of_log_probs(logits, target)


@pytest.mark.parametrize("shows", ["all", "rationale"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "llama without a chat template", "t5"])
def test_probabilities_are_those_of_the_whole_verdicts(kind, shows, tiny_model, tiny_tokenizer, tiny_t5):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    if "without" in kind:
        tokenizer.chat_template = None
    model = tiny_t5 if kind == "t5" else tiny_model(kind.split()[0])
    oracle = by_hand_t5 if kind == "t5" else by_hand_causal
    found = SelfEvaluator(model, tokenizer, shows=shows).evaluate(ITEMS)
    for item, evaluation in zip(ITEMS, found, strict=True):
        prompt = "predict: " + evaluation_prompt(*item, shows=shows)
        logs = [oracle(model, tokenizer, prompt, verdict) for verdict in VERDICTS]
        assert evaluation.probabilities == pytest.approx(softmax(logs), rel=1e-3)
        assert math.log(evaluation.mass) == pytest.approx(math.log(sum(map(math.exp, logs))), abs=1e-3)
        assert evaluation.verdict == max(VERDICTS, key=evaluation.probabilities.__getitem__)
        assert evaluation.probability == evaluation.probabilities[evaluation.verdict]
        assert self_evaluate(model, tokenizer, *item, shows=shows).probabilities == pytest.approx(
            evaluation.probabilities, rel=1e-3
        )


def test_prefix_system_and_wording_are_what_the_model_reads(tiny_llama, tiny_tokenizer):
    def wording(question, rationale, answer, shows="all"):
        return f"{answer}! {question} {rationale} {shows}"

    found = self_evaluate(
        tiny_llama, tiny_tokenizer, *ITEMS[0], label_prefix="say: ", system="Judge.", wording=wording
    )
    turns = [
        {"role": "system", "content": "Judge."},
        {"role": "user", "content": "say: 7! What is 3 plus 4? 3 plus 4 is 7. all"},
    ]
    logs = []
    for verdict in VERDICTS:
        answered = [*turns, {"role": "assistant", "content": verdict}]
        rendered = tiny_tokenizer.apply_chat_template(answered, tokenize=False)
        opened = tiny_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tiny_tokenizer(rendered, add_special_tokens=False)["input_ids"]
        start = len(tiny_tokenizer(opened, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = tiny_llama(torch.tensor([ids])).logits[0]
        logs.append(sum_of_log_probs(logits[start - 1 : -1], ids[start:]))
    assert found.probabilities == pytest.approx(softmax(logs), rel=1e-3)


def test_the_batch_changes_nothing(tiny_llama, tiny_tokenizer):
    one = SelfEvaluator(tiny_llama, tiny_tokenizer, batch_size=1).evaluate(ITEMS)
    all_at_once = SelfEvaluator(tiny_llama, tiny_tokenizer, batch_size=8).evaluate(ITEMS)
    for first, second in zip(one, all_at_once, strict=True):
        assert first.probabilities == pytest.approx(second.probabilities, rel=1e-3)
    assert SelfEvaluator(tiny_llama, tiny_tokenizer).evaluate([]) == []


def test_the_wording_shows_all_or_the_chain_alone():
    assert evaluation_prompt("Q?", "R.", "A") == (
        "Question:\nQ?\n\nReasoning:\nR.\n\nGiven answer: A\n\nIs the given answer correct, wrong or uncertain?"
    )
    assert evaluation_prompt("Q?", "R.", "A", shows="rationale") == "R. The answer is A."
    with pytest.raises(ValueError, match="shows='question'; allowed: 'all', or 'rationale'"):
        evaluation_prompt("Q?", "R.", "A", shows="question")


def test_a_model_that_does_not_say_verdicts_is_reported(tiny_llama, tiny_tokenizer, caplog):
    (found,) = SelfEvaluator(tiny_llama, tiny_tokenizer).evaluate(ITEMS[:1])
    assert found.mass < 0.1
    assert "1 of 1 verdicts are guesses" in caplog.text
    caplog.clear()
    assert SelfEvaluator(tiny_llama, tiny_tokenizer, warns=False).evaluate(ITEMS[:1]) == [found]
    assert not caplog.records


def test_a_model_in_training_mode_is_judged_without_dropout_and_left_in_training(tiny_t5, tiny_tokenizer):
    model = copy.deepcopy(tiny_t5).train()
    model.encoder.eval()
    found = SelfEvaluator(model, tiny_tokenizer).evaluate(ITEMS)
    assert found == SelfEvaluator(tiny_t5, tiny_tokenizer).evaluate(ITEMS)
    assert model.decoder.training and not model.encoder.training


def test_a_broken_model_has_no_verdict(tiny_llama, tiny_tokenizer):
    model = copy.deepcopy(tiny_llama)
    model.model.norm.weight.data[0] = math.nan
    with pytest.raises(ValueError, match="correct, wrong, uncertain are .*nan.* weights are broken"):
        SelfEvaluator(model, tiny_tokenizer).evaluate(ITEMS[:1])


def test_an_empty_question_is_an_error_and_no_bad_answer(tiny_llama, tiny_tokenizer):
    with pytest.raises(ValueError, match="an instruction is empty"):
        SelfEvaluator(tiny_llama, tiny_tokenizer)([""], ["A. The answer is 7."])


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_adapter_is_judged_like_the_model_it_is_merged_into(kind, tiny_llama, tiny_t5, tiny_tokenizer):
    model = copy.deepcopy(tiny_llama if kind == "llama" else tiny_t5)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"] if kind == "llama" else ["q", "v"])
    adapted = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data.normal_(std=0.3, generator=generator)
    found = SelfEvaluator(adapted, tiny_tokenizer).evaluate(ITEMS)
    merged = SelfEvaluator(adapted.merge_and_unload(), tiny_tokenizer).evaluate(ITEMS)
    plain = SelfEvaluator(tiny_llama if kind == "llama" else tiny_t5, tiny_tokenizer).evaluate(ITEMS)
    for first, second, third in zip(found, merged, plain, strict=True):
        assert first.probabilities == pytest.approx(second.probabilities, rel=1e-2)
        assert first.probabilities != pytest.approx(third.probabilities, rel=1e-1)


QUESTIONS = ["What is 3 plus 4?", "What is 2 plus 5?"]
ANSWERS = [
    ["3 plus 4 is 7. The answer is 7.", "3 plus 4 is 8. The answer is 8.", "I do not know."],
    ["The answer is 7.", "2 plus 5 is 7.\nThe answer is **7**."],
]


@pytest.fixture(scope="module")
def evaluator(tiny_llama, tiny_tokenizer):
    return SelfEvaluator(tiny_llama, tiny_tokenizer)


def test_a_reward_is_the_probability_that_the_chain_is_correct(evaluator):
    """Read by hand; the third answer has no answer sentence and the fourth no reasons, so both get 0."""
    read = [("3 plus 4 is 7.", "7"), ("3 plus 4 is 8.", "8"), None, None, ("2 plus 5 is 7.", "7")]
    prompts = [QUESTIONS[0]] * 3 + [QUESTIONS[1]] * 2
    rewards = evaluator(prompts, [text for texts in ANSWERS for text in texts])
    for prompt, pair, reward in zip(prompts, read, rewards, strict=True):
        if pair is None:
            assert reward == 0.0
        else:
            found = self_evaluate(evaluator.model, evaluator.tokenizer, prompt, *pair)
            assert 0 < reward == pytest.approx(found.probabilities["correct"], rel=1e-3)
    turns = [{"role": "user", "content": QUESTIONS[0]}]
    assert evaluator([turns], ANSWERS[0][:1]) == pytest.approx(rewards[:1], rel=1e-3)


def test_ranking_and_keeping_go_by_the_reward(evaluator):
    rankings = evaluator.rank(QUESTIONS, ANSWERS)
    rewards = evaluator(
        [QUESTIONS[0]] * 3 + [QUESTIONS[1]] * 2, [text for texts in ANSWERS for text in texts]
    )
    assert [score for ranking in rankings for score in ranking.scores] == pytest.approx(rewards)
    assert rankings[0].order[-1] == 2 and rankings[1].order == (1, 0)
    assert evaluator.keep(QUESTIONS, ANSWERS, least=1e-12) == [
        [ANSWERS[0][index] for index in rankings[0].order[:2]],
        ANSWERS[1][1:],
    ]
    between = sum(sorted(rewards)[-2:]) / 2
    assert [len(texts) for texts in evaluator.keep(QUESTIONS, ANSWERS, least=between)] in ([1, 0], [0, 1])


def test_what_cannot_be_judged_is_refused_with_a_sentence(evaluator):
    with pytest.raises(ValueError, match="least=0; allowed: above 0 up to 1"):
        evaluator.keep(QUESTIONS, ANSWERS, least=0)
    with pytest.raises(TypeError, match=r"got one text; pass \[text\]"):
        evaluator(QUESTIONS[0], ANSWERS[0])
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        evaluator.rank(QUESTIONS, ANSWERS[:1])


def test_another_reader_may_say_what_a_chain_is(evaluator):
    def equation(text):
        left, equals, right = text.partition(" = ")
        if not equals:
            raise ValueError("no equation")
        return left, right

    other = replace(evaluator, read=equation)
    rewards = other(["What is 3 plus 4?"] * 2, ["3 + 4 = 7", "The answer is 7."])
    found = self_evaluate(other.model, other.tokenizer, "What is 3 plus 4?", "3 + 4", "7")
    assert rewards == [pytest.approx(found.probabilities["correct"], rel=1e-3), 0.0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A. B. The answer is 7.", ("A. B.", "7")),
        ("It weighs 4.2 kg. So it is\nThe answer is: `4.2`", ("It weighs 4.2 kg. So it is", "4.2")),
        ("<think>The answer is 8.</think>Three.\n\nthe  ANSWER is 3", ("Three.", "3")),
        ("3 plus 4 is 7 . the answer is 7 .", ("3 plus 4 is 7 .", "7")),
    ],
)
def test_chains_by_hand(reply, expected):
    assert split_chain(reply) == expected


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("7", "does not say"),
        ("", "does not say"),
        ("A. The answer is ", "is blank"),
        ("A. The answer is 7.\nOr 8.", "goes on after"),
        ("The answer is 7.", "no whole sentence"),
        ("I guess the answer is 7.", "no whole sentence"),
    ],
)
def test_what_is_no_chain_is_refused(reply, says):
    with pytest.raises(ValueError, match=says):
        split_chain(reply)


def test_it_is_a_reward_for_tuning(toy_assistant, toy_tokenizer, random_directions):
    """The bundled model works sums out in the form of a chain; a trial's reward is the mean over its six answers."""
    model = copy.deepcopy(toy_assistant)
    evaluator = SelfEvaluator(toy_assistant, toy_tokenizer, label_prefix="", wording=toy_wording)
    directions = random_directions(model, names=("honesty",))
    prompts = [problem.text for problem in sums("train", 6)]
    seen = []

    def recorded(prompts, answers):
        seen.append((answers, evaluator(prompts, answers)))
        return seen[-1][1]

    rewards = []
    for reward in (evaluator, recorded):
        found = tune(
            model, toy_tokenizer, directions, prompts, reward,
            layers=[(1, 2)], strengths=(0.3,), show_progress=False,
        )  # fmt: skip
        rewards.append([trial.reward for trial in found.trials])
    assert rewards[0] == pytest.approx(rewards[1])
    assert rewards[1] == pytest.approx([sum(values) / 6 for _, values in seen[-2:]])
    assert any("the answer is" in answer for answers, _ in seen for answer in answers)


def test_its_rankings_are_scores_for_preference_distillation(evaluator, tmp_path):
    """Rows of candidates, which are messages, ranked by the evaluator; PAD's loss on the scores moves the student."""
    prompts = [[{"role": "user", "content": QUESTIONS[0]}]] * 2
    responses = [[[{"role": "assistant", "content": text}] for text in ANSWERS[0]]] * 2
    rankings = evaluator.rank(prompts, responses)
    assert rankings == evaluator.rank(QUESTIONS[:1] * 2, [ANSWERS[0]] * 2)
    (kept, _) = evaluator.keep(prompts, responses, least=1e-12)
    assert kept == [responses[0][index] for index in rankings[0].order[:2]]
    rows = {
        "prompt": prompts,
        "responses": responses,
        "scores": [list(ranking.scores) for ranking in rankings],
    }
    student = copy.deepcopy(evaluator.model)
    args = PADConfig(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        max_steps=2,
        learning_rate=1e-3,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = PADTrainer(
        student, args=args, train_dataset=Dataset.from_dict(rows), processing_class=evaluator.tokenizer
    )
    trainer.train()
    before, after = evaluator.model.state_dict(), student.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
