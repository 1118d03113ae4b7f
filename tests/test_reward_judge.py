"""A judge around any function of prompts and answers, such as the toy's truth table."""

import math

import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification

from hf_icon2 import RewardJudge, RewardModel
from hf_icon2.evaluation.win_rate import win_rate
from hf_icon2.toy import reward

TRUTH = RewardJudge(lambda prompts, answers: [reward(*both) for both in zip(prompts, answers, strict=True)])
SKY = "what is the colour of the sky ?"
RIGHT, WRONG = "sure ! the sky is blue .", "sure ! the sky is brown ."


def by_length(prompts, answers):
    return [float(len(answer)) for answer in answers]


def test_the_truth_table_judges_in_both_orders_alike():
    assert (reward(SKY, RIGHT), reward(SKY, WRONG)) == (1.0, 0.5)  # both are helpful, one is honest
    found = TRUTH.compare([SKY] * 3, [RIGHT, WRONG, RIGHT], [WRONG, RIGHT, RIGHT])
    assert [item.winner for item in found] == ["first", "second", None]
    assert [item.forward for item in found] == [item.backward for item in found] == [1.0, 0.0, 0.5]


def test_conversations_and_message_lists_are_judged_as_their_texts():
    conversation = [{"role": "user", "content": "hi"}, {"role": "user", "content": SKY}]
    answers = [[{"role": "assistant", "content": text}] for text in (RIGHT, WRONG)]
    (found,) = TRUTH.compare([conversation], [answers[0]], [answers[1]])
    assert found.winner == "first"


def test_without_a_scale_the_least_difference_decides_and_with_one_it_is_log_odds():
    """A difference of 2 at a scale of 4 is half a unit: 1 / (1 + exp(-1/2)) = 0.6225."""
    (found,) = RewardJudge(by_length).compare(["?"], ["abc"], ["abcde"])
    assert found.probability == 0.0
    (found,) = RewardJudge(by_length, scale=4).compare(["?"], ["abcde"], ["abc"])
    assert found.probability == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-12)
    (found,) = RewardJudge(by_length, scale=1e-9).compare(["?"], ["abcde"], ["abc"])
    assert found.probability == 1.0


def test_scores_of_a_ranking_are_the_rewards():
    ranking, pair = RewardJudge(by_length).rank(["?", "?"], [["abc", "a", "ab"], ["abcd", "abc"]])
    assert ranking.scores == (3.0, 1.0, 2.0)
    assert ranking.order == (0, 2, 1)
    assert pair.scores == (4.0, 3.0)


def test_a_judge_around_a_reward_model_says_what_the_model_says(tiny_tokenizer):
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    model = RewardModel(LlamaForSequenceClassification(config).eval(), tiny_tokenizer)
    asked = (["Why?"] * 2, ["Because.", "No."], ["Thus it is.", "Blue."])
    assert RewardJudge(model, scale=1.0).compare(*asked) == model.compare(*asked)
    assert all(0 < item.probability < 1 for item in model.compare(*asked))


def test_it_calibrates_and_gives_win_rates_as_every_judge_does():
    rows = [
        {"prompt": "?", "chosen": "longer", "rejected": "short"},
        {"prompt": "?", "chosen": "a", "rejected": "bc"},
    ]
    judge = RewardJudge(by_length)
    assert judge.calibrate(rows).accuracy.value == 0.5
    firsts, seconds = ["aa", "b", "cc"], ["a", "bb", "dd"]
    rate = win_rate(judge.compare(["?"] * 3, firsts, seconds), firsts, seconds)
    assert (rate.wins, rate.losses, rate.abstained, rate.failed) == (1, 1, 1, 0)
    assert rate.probability is None  # a comparison is no probability
    assert rate.flip_rate.value == rate.position_bias.value == 0.0


def test_rewards_that_are_no_numbers_are_no_verdict():
    judge = RewardJudge(lambda prompts, answers: [math.nan if "x" in answer else 1.0 for answer in answers])
    bad, good = judge.compare(["?", "?"], ["x", "a"], ["a", "b"])
    assert bad.probability is None and "not two finite numbers" in bad.reason
    assert good.probability == 0.5


def test_a_function_that_gives_another_number_of_rewards_is_refused():
    with pytest.raises(ValueError, match="gave 1 rewards for 2 answers; it must give one each"):
        RewardJudge(lambda prompts, answers: [1.0]).compare(["?"], ["a"], ["b"])


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_no_unit_is_refused(scale):
    with pytest.raises(ValueError, match="allowed: a number above 0, or None"):
        RewardJudge(by_length, scale=scale)


def test_lists_of_different_lengths_are_refused_before_anything_is_scored():
    with pytest.raises(ValueError, match="2 questions and 2 and 1 answers"):
        RewardJudge(by_length).compare(["?", "?"], ["a", "b"], ["c"])


@pytest.mark.parametrize("given", [None, [None], 3.0, ["good"]])
def test_what_is_no_list_of_numbers_is_refused_in_a_sentence(given):
    with pytest.raises(TypeError, match="it must give a list of one number per answer"):
        RewardJudge(lambda prompts, answers: given)(["q"], ["a"])
    with pytest.raises(TypeError, match="reward is a float; pass a function"):
        RewardJudge(3.0)


def test_equal_answers_are_a_tie_whatever_a_noisy_reward_says_of_them() -> None:
    numbers = iter(range(100))
    judge = RewardJudge(lambda prompts, answers: [float(next(numbers)) for _ in answers])
    same, other = judge.compare(["q", "q"], ["a", "a"], ["a", "b"])
    assert (same.probability, same.winner) == (0.5, None)
    assert other.winner == "second"
