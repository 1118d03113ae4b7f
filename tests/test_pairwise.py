"""Verdicts read from text, both orders, round robins, reward models: against hand arithmetic and true tables."""

import copy
import inspect
import math
import random
import re
import subprocess
import sys
from itertools import combinations

import pytest
import torch
from faulty_server import FaultyServer, at_random, completion
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from hf_icon2 import Budget, ChatClient, LetterJudge, PairwiseJudge, RankingJudge, RewardModel
from hf_icon2.judges.chat.records import ChatFailure
from hf_icon2.judges.judging import round_robin
from hf_icon2.judges.replies import stated_letter
from hf_icon2.judges.verdicts import Comparison, LetterChoice
from hf_icon2.judges.wording import compare_prompt
from hf_icon2.toy.answers import Behaviours, answer, grade
from hf_icon2.toy.skills import ab_prompt
from hf_icon2.toy.world import instructions

# What a judge says for an answer X against Y; x and y are the small letters.
VERDICTS = [
    *(
        "X",
        "x",
        "(x)",
        "[X]",
        "[[X]]",
        "[[ x ]]",
        "**X**",
        " X. ",
        "X)",
        "Output (x)",
        "output (X).",
        "Answer X",
    ),
    *(
        "answer x",
        "Answer: X",
        "Answer: (x)",
        "The answer is X",
        "The better answer is X.",
        "Better: X",
        "Winner: (x)",
    ),
    *(
        "Verdict: Output (x)",
        "Final verdict: [[X]]",
        "My choice is X.",
        "Response X wins.",
        "Option X is superior.",
    ),
    *(
        "I prefer answer x.",
        "I would go with X.",
        "X, because it is true.",
        r"\boxed{X}",
        "<answer>X</answer>",
    ),
    *("Therefore, Output (x) is better.", "Output (x) is better than Output (y).", "X vs Y: X is better."),
    *("**Answer X** is clearly the better one.", "Y is good, but Output (x) is the better choice."),
    *("Both are good, but X is better.", "<think>Y is better</think>X", "Y is better</think>\nX"),
    "Output (y) is better. On reflection, Output (x) is better.",
    *("[[Y]] would be wrong. [[X]]", "X\n\nIt says what was asked.", "It says what was asked.\n\nX"),
    "**Answer A**\nGood.\n**Answer B**\nBad.\n\nX",
    *(
        "[[X>Y]]",
        "[[X>>Y]]",
        '{"winner": "X"}',
        "The better answer is: X",
        "The answer is X: it is shorter",
        "Overall, X.",
    ),
    *("Without a doubt X is better.", "It is long, so X is better.", "Vitamin Y is better. [[X]]"),
    "While Output (y) does not answer, Output (x) is better.",
    "Both outputs execute the instruction, Output (x) is better.",
    *(
        "X. Answer X is more complete and accurate.",
        "X - it is more accurate.",
        "X: more accurate",
        "X (it is the true one)",
        "Answer X serves the question better.",
        "The answer that serves the question better is X.",
        "Assistant X's response is better.",
        "Answer X outperforms Answer Y.",
        "Response X seems to be the better one.",
        "The better answer is clearly X.",
        "I lean towards X.",
        "**Winner: X** 🏆",
        "Winner: X (by far)",
        "better_answer: X",
        "<winner>X</winner>",
        "My vote: X",
        "Answer Y is shorter but X is better.",
    ),
    # A letter, and then what speaks for the other answer nevertheless.
    *(
        "X\n\nWhile Answer Y is better formatted, it contains errors.",
        "X\nAlthough Y is better at explaining, it is wrong.",
        "X\nExplanation: Answer Y is better written but wrong.",
        '{"winner": "X", "reason": "Answer Y is better written but wrong."}',
    ),
    "Assistant (y) argues that Output (y) is better. I agree with Assistant (x) that Output (x) is better.",
]
OPEN = [
    *(
        "",
        "C",
        "AB",
        "Abba",
        "A and B",
        "A or B",
        "A/B",
        "A, B",
        "[[C]]",
        "I cannot say.",
        "It is a tie.",
        "Tie",
    ),
    *(
        "Both are better.",
        "Neither is better.",
        "Both outputs are equally good.",
        "The better answer is neither.",
    ),
    *("Neither Output (a) nor Output (b) is better.", "Output (a) and Output (b) is better."),
    *("Output (a) or Output (b) is better.", "Output (a) is not better.", "Answer A isn't better."),
    *("I would not choose A.", "I do not think that Output (a) is better.", "Is Output (a) better?"),
    *("It is unclear whether Output (b) is better.", "Output (a) is better. Still, it is a tie."),
    *("A good answer needs facts.", "The answer is a long one.", "<think>A is better", "Answer A:\nGood."),
    *(
        "A\nB",
        "A\n\nB",
        "[[A=B]]",
        "Vitamin A is better for the eyes.",
        "A > B",
        "Answer A: 7/10\nAnswer B: 9/10",
    ),
    "Output (a) is better in style; Output (b) is better in content. I would pick neither.",
    *(
        "The worse answer is A.",
        "The incorrect answer is B.",
        "The losing answer: A",
        "Worse choice: B",
        "The second best is B.",
        "The less preferred answer is A.",
        "The shorter answer is A.",
    ),
    *("A?", "Is it so that Output (a) is better?", "Answer: A, B", "A: 8/10. B: 6/10.", "A. Good. B. Bad."),
    *("There is no reason to believe A is better.", "Nobody would say A is better.", "Answer A: it is long."),
    "One might think that A is better. But it is false.",
    "Answer A is better in terms of accuracy and Answer B is better in terms of style.",
    "A\n\nOn second thought, B is better.",
    "Although A is better, it is wrong.",
    *("**Answer A**\nGood.\n**Answer B**\nBad.", "I'd say a better answer is possible."),
]


@pytest.mark.parametrize("letters", ["AB", "BA"])
@pytest.mark.parametrize("form", VERDICTS)
def test_a_verdict_is_read_in_all_its_usual_forms(form, letters):
    better, worse = letters
    words = {"X": better, "x": better.lower(), "Y": worse, "y": worse.lower()}
    reply = re.sub(r"(?<![A-Za-z])[XxYy](?![A-Za-z])", lambda found: words[found[0]], form)
    assert stated_letter(reply) == better


@pytest.mark.parametrize("reply", OPEN)
def test_no_verdict_is_guessed(reply):
    assert stated_letter(reply) is None


@pytest.mark.parametrize(
    "part",
    [
        "(",
        "output" + " " * 200,
        "Output (a) is better than ",
        "\n",
        "not ",
        "[[ a",
        "A ",
        "A. ",
        "while ",
        "- -\n",
    ],
)
def test_a_long_reply_of_one_kind_is_read_all_the_same(part):
    """Matching in the square of the length would take minutes here."""
    assert stated_letter(part * (100_000 // len(part)) + "\n\nTherefore, output (b) is better.") == "B"


def chooser(probability_of_first, asked=None):
    """Judges by a function of both answers, and notes what it was asked."""

    def choose(questions):
        choices = []
        for question in questions:
            first, _, second = question.partition(" | ")
            choices.append(probability_of_first(first, second))
            if asked is not None:
                asked.append((first, second))
        return choices

    return choose


def plain(_question, first, second):
    return f"{first} | {second}"


def longer(first, second):
    return LetterChoice(float(len(first) > len(second)), 1.0)


def test_every_pair_is_asked_in_both_orders_and_turned_back():
    """P(first shown wins) is 0.9 for "aa" before "b" and 0.3 for "b" before "aa": 0.9 and 1 - 0.3, mean 0.8."""
    asked = []
    given = {("aa", "b"): 0.9, ("b", "aa"): 0.3}
    judge = PairwiseJudge(chooser(lambda *pair: LetterChoice(given[pair], 1.0), asked), ask=plain)
    (found,) = judge.compare(["q"], ["aa"], ["b"])
    assert asked == [("aa", "b"), ("b", "aa")]
    assert (found.forward, found.backward, found.winner) == (0.9, pytest.approx(0.7), "first")
    assert found.probability == pytest.approx(0.8)
    (mirrored,) = judge.compare(["q"], ["b"], ["aa"])
    assert mirrored.winner == "second"
    assert mirrored.probability == pytest.approx(0.2)


def test_a_judge_that_always_takes_the_first_seat_abstains():
    judge = PairwiseJudge(chooser(lambda *_: LetterChoice(1.0, 1.0)), ask=plain)
    (found,) = judge.compare(["q"], ["one"], ["other"])
    assert (found.forward, found.backward, found.winner, found.probability) == (1.0, 0.0, None, 0.5)


def test_equal_answers_are_a_tie_without_a_question():
    asked = []
    judge = PairwiseJudge(chooser(longer, asked), ask=plain)
    found = judge.compare(["q", "q"], ["same", "longer"], ["same", "short"])
    assert [item.winner for item in found] == [None, "first"]
    assert found[0] == Comparison(0.5, 0.5)
    assert len(asked) == 2
    assert judge.compare([], [], []) == []


def test_a_failed_reply_is_a_comparison_with_its_reason():
    failure = ChatFailure("the budget is spent", stopped=True)
    judge = PairwiseJudge(chooser(lambda first, _: failure if first == "b" else longer(first, "")), ask=plain)
    (found,) = judge.compare(["q"], ["aa"], ["b"])
    assert found == Comparison(1.0, None, "the budget is spent", stopped=True)
    assert found.winner is None


def test_letters_that_the_model_would_not_say_are_no_verdict():
    judge = PairwiseJudge(chooser(lambda *_: LetterChoice(0.9, 0.01)), ask=plain)
    (found,) = judge.compare(["q"], ["one"], ["other"])
    assert found.probability is None
    assert "less than 0.1 of the probability" in found.reason


def test_as_many_questions_as_answers_are_needed():
    judge = PairwiseJudge(chooser(longer), ask=plain)
    with pytest.raises(ValueError, match="1 questions and 2 and 1 answers are given"):
        judge.compare(["q"], ["a", "b"], ["c"])
    with pytest.raises(TypeError, match=r"got one text; pass \[text\]"):
        judge.compare("q", "a", "b")


def test_conversations_and_messages_are_compared_like_texts():
    asked = []
    judge = PairwiseJudge(
        lambda questions: asked.extend(questions) or [LetterChoice(1.0, 1.0)] * len(questions)
    )
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    judge.compare([turns], [[{"role": "assistant", "content": "Because."}]], ["Thus."])
    assert asked[0] == compare_prompt("User: Hi\n\nAssistant: Hello\n\nUser: Why?", "Because.", "Thus.")
    assert asked[1] == compare_prompt("User: Hi\n\nAssistant: Hello\n\nUser: Why?", "Thus.", "Because.")


def test_a_ranking_of_hard_verdicts_is_copelands():
    """ "aaaa" beats both, "b" loses both, and the judge flips on nothing: 2/2, 1/2, 0/2."""
    judge = PairwiseJudge(chooser(longer), ask=plain)
    (found,) = judge.rank(["q"], [["b", "aaaa", "ccc"]])
    assert found.scores == (0.0, 1.0, 0.5)
    assert found.order == (1, 2, 0)


def test_a_ranking_of_probabilities_is_their_mean_over_the_others():
    """P(x beats y) = strength x / (strength x + strength y) with 1, 2, 5: brute force over the pairs."""
    strength = {"x": 1, "y": 2, "z": 5}

    def choose(first, second):
        return LetterChoice(strength[first] / (strength[first] + strength[second]), 1.0)

    (found,) = PairwiseJudge(chooser(choose), ask=plain).rank(["q"], [list("zxy")], [])
    by_hand = [sum(strength[a] / (strength[a] + strength[b]) for b in "xyz" if b != a) / 2 for a in "zxy"]
    assert found.scores == pytest.approx(by_hand)


def test_all_judges_that_rank_are_called_alike():
    wanted = inspect.signature(RankingJudge.rank)
    for judge in (PairwiseJudge, RewardModel):
        assert inspect.signature(judge.rank) == wanted


def test_rankings_of_several_questions_do_not_mix():
    judge = PairwiseJudge(chooser(longer), ask=plain)
    found = judge.rank(["q", "r", "s"], [["a", "bb"], ["ccc", "d", "ee"], ["f", "f"]])
    assert [ranking.order for ranking in found] == [(1, 0), (0, 2, 1), (0, 1)]
    assert found[2].scores == (0.5, 0.5)
    with pytest.raises(ValueError, match="1 questions and 2 answers are given"):
        judge.rank(["q"], [["a", "b"], ["c", "d"]])


def test_a_missing_verdict_counts_half_and_a_stopped_batch_drops_the_ranking():
    """Of three answers: 0 beats 1, 0 against 2 is unreadable, 2 beats 1: (1 + .5)/2, 0/2, (.5 + 1)/2."""
    bad = Comparison(None, 1.0, "unreadable")
    won, lost = Comparison(1.0, 1.0), Comparison(0.0, 0.0)
    assert round_robin(3, {(0, 1): won, (0, 2): bad, (1, 2): lost}).scores == (0.75, 0.0, 0.75)
    dropped = round_robin(3, {(0, 1): bad, (0, 2): bad, (1, 2): lost})
    assert dropped.scores is None
    assert dropped.reason == "2 of 3 pairs have no verdict: unreadable"
    assert not dropped.stopped
    stopped = round_robin(2, {(0, 1): Comparison(None, None, "no budget", stopped=True)})
    assert (stopped.scores, stopped.reason, stopped.stopped) == (None, "no budget", True)
    assert round_robin(1, {}).reason == "there are 1 answers; a ranking needs 2 or more"


def toy_pairs(number, seed=0):
    """A right answer and a worse one to each of the world's questions, the right one chosen."""
    rng = random.Random(seed)
    pairs = []
    for item in instructions("test")[:number]:
        bad = rng.choice(
            [Behaviours(honesty=False), Behaviours(harmlessness=False), Behaviours(helpfulness=False)]
        )
        chosen, rejected = answer(item, Behaviours(), rng), answer(item, bad, rng)
        if grade(item.text, chosen).score > grade(item.text, rejected).score:
            pairs.append({"prompt": item.text, "chosen": chosen, "rejected": rejected})
    return pairs


def test_the_model_itself_judges_by_its_letters(toy_assistant, toy_tokenizer):
    """The probability of a pair is what one plain pass per order gives."""
    (pair, *_) = toy_pairs(20)
    judge = PairwiseJudge.from_model(toy_assistant, toy_tokenizer, ask=ab_prompt)
    (found,) = judge.compare([pair["prompt"]], [pair["chosen"]], [pair["rejected"]])
    ids = {letter: toy_tokenizer.convert_tokens_to_ids(letter) for letter in "ab"}

    def of_first(first, second):
        text = toy_tokenizer.apply_chat_template(
            [{"role": "user", "content": ab_prompt(pair["prompt"], first, second)}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            scores = toy_assistant(text["input_ids"]).logits[0, -1].double()
        return torch.sigmoid(scores[ids["a"]] - scores[ids["b"]]).item()

    assert found.forward == pytest.approx(of_first(pair["chosen"], pair["rejected"]), abs=1e-5)
    assert found.backward == pytest.approx(1 - of_first(pair["rejected"], pair["chosen"]), abs=1e-5)


def test_the_bundled_model_is_calibrated_on_its_true_table(toy_assistant, toy_tokenizer):
    judge = PairwiseJudge.from_model(toy_assistant, toy_tokenizer, ask=ab_prompt)
    found = judge.calibrate(toy_pairs(60))
    assert found.read == found.pairs > 30
    assert found.accuracy.value > 0.75
    assert found.brier.value < 0.25


def test_questions_are_the_same_alone_and_in_batches(toy_assistant, toy_tokenizer):
    asked = [ab_prompt(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in toy_pairs(12)]
    together = LetterJudge(toy_assistant, toy_tokenizer)(asked)
    parts = LetterJudge(toy_assistant, toy_tokenizer, batch_size=3)(asked)
    assert [item.probability for item in parts] == pytest.approx(
        [item.probability for item in together], abs=1e-4
    )


@pytest.fixture(scope="module")
def classifier(tiny_tokenizer, tmp_path_factory):
    """A reward model whose folder is read like one of the Hub."""
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.5,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_compares_by_bradley_and_terry(classifier):
    model = RewardModel.from_pretrained(str(classifier))
    first, second = model(["Why?", "Why?"], ["Because.", "Thus it is."])
    (found,) = model.compare(["Why?"], ["Because."], ["Thus it is."])
    assert found.forward == found.backward == pytest.approx(1 / (1 + math.exp(second - first)))
    assert found.winner == ("first" if first > second else "second")


def test_a_reward_model_ranks_by_its_rewards(classifier):
    model = RewardModel.from_pretrained(str(classifier))
    answers = [["Because.", "Thus it is.", "No."], ["Yes.", "Blue."]]
    found = model.rank(["Why?", "What?"], answers)
    for question, texts_, ranking in zip(["Why?", "What?"], answers, found, strict=True):
        assert ranking.scores == pytest.approx([model([question], [text])[0] for text in texts_], abs=1e-4)
    for one, other in combinations(range(3), 2):
        (pair,) = model.compare(["Why?"], [answers[0][one]], [answers[0][other]])
        assert (pair.probability > 0.5) == (found[0].scores[one] > found[0].scores[other])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("tokenizers", "models"), [("<pad>", 0), ("<pad>", 7), ("<pad>", None), (None, 0)])
def test_rewards_are_the_same_alone_and_in_batches(tiny_tokenizer, side, kind, tokenizers, models):
    """Whichever side the tokenizer pads, and whether or not the model knows its padding."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, **sizes, num_labels=1, bos_token_id=1, eos_token_id=2)
    config.pad_token_id = models
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.padding_side, tokenizer.pad_token = side, tokenizers
    model = RewardModel(AutoModelForSequenceClassification.from_config(config).eval(), tokenizer)
    answers = ["Short.", "A longer answer than any other here.", "Of some length."]
    alone = [model(["Why?"], [answer])[0] for answer in answers]
    assert model(["Why?"] * 3, answers) == pytest.approx(alone, abs=1e-6)


def test_rows_longer_than_the_model_reads_are_cut_and_counted(tiny_tokenizer, caplog):
    """BERT has 64 positions, and fails at a 65th."""
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", **sizes, num_labels=1, max_position_embeddings=64, pad_token_id=0)
    model = RewardModel(AutoModelForSequenceClassification.from_config(config).eval(), tiny_tokenizer)
    assert len(model(["Why?"] * 2, ["No.", "Because. " * 40])) == 2
    assert "1 of 2 rows are longer than 64 tokens" in caplog.text


def test_a_classifier_with_several_outputs_is_no_reward_model(classifier, tmp_path, tiny_tokenizer):
    config = LlamaConfig.from_pretrained(classifier, num_labels=2)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 outputs; a reward model has one"):
        RewardModel.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="has 2 outputs"):
        RewardModel(LlamaForSequenceClassification(config), tiny_tokenizer)


def test_a_language_model_without_a_reward_head_is_refused(classifier, tmp_path, tiny_tokenizer):
    config = LlamaConfig.from_pretrained(classifier, num_labels=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"lacks the weights score\.weight, without which rewards are random"
    ):
        RewardModel.from_pretrained(str(tmp_path))


def test_rewards_that_are_no_numbers_are_no_verdict(classifier):
    model = RewardModel.from_pretrained(str(classifier))
    with torch.no_grad():
        model.model.score.weight.fill_(math.inf)
    (found,) = model.compare(["Why?"], ["Because."], ["No."])
    assert found.probability is None
    assert "not two finite numbers" in found.reason
    assert model.rank(["Why?"], [["Because.", "No."]])[0].scores is None


def seats(payload):
    """Question and answers of a request worded by `plain`."""
    first, _, second = payload["messages"][-1]["content"].partition(" | ")
    return first, second


def by_length(payload):
    first, second = seats(payload)
    return f"Output ({'a' if len(first) > len(second) else 'b'}) is better."


PAIRS = [
    (f"long answer {n}", f"short {n}") if n % 3 else (f"brief {n}", f"longer one {n}") for n in range(60)
]


def compared(judge, pairs=PAIRS):
    return judge.compare(["q"] * len(pairs), *zip(*pairs, strict=True))


def test_an_endpoint_is_asked_in_both_orders_at_temperature_0():
    with FaultyServer(by_length) as server:
        found = compared(PairwiseJudge.from_endpoint(server.url, "judge", ask=plain))
        assert [item.winner for item in found] == ["first" if n % 3 else "second" for n in range(60)]
        assert {seats(seen.payload) for seen in server.seen} == {*PAIRS, *((two, one) for one, two in PAIRS)}
        assert {seen.payload["temperature"] for seen in server.seen} == {0.0}
        assert {seen.payload["model"] for seen in server.seen} == {"judge"}


def test_an_endpoint_that_fails_often_loses_no_comparison():
    """One request in five fails in some way, one reply in twenty says nothing: each pair is judged, or says why not."""
    plan = at_random({"429": 0.05, "500": 0.05, "cut": 0.05, "malformed": 0.05, "wrong": 0.05})
    with FaultyServer(by_length, plan=plan) as server:
        client = ChatClient(server.url, backoff=0.001)
        found = compared(PairwiseJudge.from_chat(client, ask=plain))
        empty = [seats(seen.payload) for seen in server.seen if seen.fault == "wrong"]
        assert server.most_in_flight <= 8
    assert empty
    for number, (item, pair) in enumerate(zip(found, PAIRS, strict=True)):
        if pair in empty or pair[::-1] in empty:
            assert item.winner is None
            assert item.reason == "the reply names neither A nor B as the better: '?'"
        else:
            assert item.winner == ("first" if number % 3 else "second")


@pytest.mark.parametrize("read", ["text", "logprobs"])
def test_a_request_that_fails_for_good_is_one_comparison_only(read):
    def plan(payload, _attempt):
        return "400" if payload["messages"][-1]["content"].startswith("brief 3 ") else None

    def answer_to(payload):
        text = by_length(payload)
        return completion(
            text, alternatives={"A": -0.1, "B": -2.5} if "(a)" in text else {"A": -2.5, "B": -0.1}
        )

    with FaultyServer(answer_to, plan=plan) as server:
        found = compared(PairwiseJudge.from_chat(ChatClient(server.url), read=read, ask=plain))
    assert [index for index, item in enumerate(found) if item.winner is None] == [3]
    assert "status 400" in found[3].reason
    assert not found[3].stopped


def test_a_budget_that_ends_stops_comparisons_and_rankings_for_now(tmp_path):
    with FaultyServer(by_length) as server:
        client = ChatClient(
            server.url, concurrency=1, budget=Budget(requests=3), cache=tmp_path / "replies.sqlite"
        )
        judge = PairwiseJudge.from_chat(client, ask=plain)
        found = compared(judge, PAIRS[:3])
        assert [item.stopped for item in found] == [False, True, True]
        rankings = judge.rank(["q", "r"], [PAIRS[0], ("a", "bb", "ccc")])
        assert rankings[0].order == (1, 0)
        assert (rankings[1].scores, rankings[1].stopped) == (None, True)


def test_a_reply_that_was_cut_has_no_verdict():
    with FaultyServer(lambda _: completion("Output (a) is better", finish_reason="length")) as server:
        judge = PairwiseJudge.from_chat(ChatClient(server.url), ask=plain, max_tokens=7)
        (found,) = compared(judge, PAIRS[:1])
        assert server.seen[0].payload["max_tokens"] == 7
    assert found.reason == "the reply was cut at 7 tokens; raise max_tokens"


def test_letters_of_an_endpoint_are_those_of_the_model_behind_it(toy_assistant, toy_tokenizer):
    local = LetterJudge(toy_assistant, toy_tokenizer)

    def served(payload):
        (choice,) = local([payload["messages"]])
        shares = {" a": choice.mass * choice.probability, "B": choice.mass * (1 - choice.probability)}
        return completion("a", alternatives={token: math.log(value) for token, value in shares.items()})

    pairs = toy_pairs(12)
    with FaultyServer(served) as server:
        remote = PairwiseJudge.from_endpoint(server.url, read="logprobs", ask=ab_prompt).calibrate(pairs)
    here = PairwiseJudge.from_model(toy_assistant, toy_tokenizer, ask=ab_prompt).calibrate(pairs)
    assert remote.brier.value == pytest.approx(here.brier.value, abs=1e-6)
    assert (remote.right, remote.wrong, remote.flips) == (here.right, here.wrong, here.flips)


def test_another_way_to_read_is_refused():
    with pytest.raises(ValueError, match="read='log'; allowed: 'text' and 'logprobs'"):
        PairwiseJudge.from_endpoint("http://127.0.0.1:1/v1", read="log")


def test_judging_over_http_loads_no_torch():
    program = (
        "import sys, hf_icon2\nhf_icon2.PairwiseJudge\nhf_icon2.ChatClient\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
