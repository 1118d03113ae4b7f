"""Self-evaluation: the wording that training and use share, and the probabilities of the three verdicts."""

import copy
import math

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hf_icon2.judges.self_evaluation import (
    VERDICTS,
    Reasoned,
    SelfEvaluator,
    evaluation_prompt,
    self_evaluate,
)

ITEMS = [
    Reasoned("What is 3 plus 4?", "3 plus 4 is 7.", "7"),
    Reasoned("Tom has 2 pens and buys 5. How many has he?", "Tom starts with 2. 2 plus 5 is 8.", "8"),
    Reasoned("Why?", "It depends.", "nobody knows"),
]


@pytest.fixture(scope="module")
def tiny_t5():
    config = T5Config(
        vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, initializer_factor=3.0,
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
        opened, whole = prompt, prompt + verdict
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
    ids = [*tokenizer(prompt)["input_ids"], 2]
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
