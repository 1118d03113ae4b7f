"""What `calibrate` reports: hand arithmetic, clustered intervals by simulation, and columns as they come."""

import json
import math
import random

import pytest
from datasets import Dataset, DatasetDict

from hf_icon2 import PairwiseJudge
from hf_icon2.judges.calibration import calibrated
from hf_icon2.judges.intervals import mean, mean_of_seats, share
from hf_icon2.judges.labelled import labelled_pairs
from hf_icon2.judges.seats import missing_reasons
from hf_icon2.judges.verdicts import Comparison, LetterChoice


def test_a_wilson_interval_is_that_of_the_formula():
    """8 of 10, z = 1.95996: centre (0.8 + z^2/20)/(1 + z^2/10), half z sqrt(0.016 + z^2/400)/(1 + z^2/10)."""
    z = 1.959964
    found = share(8, 10)
    centre = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.016 + z * z / 400) / (1 + z * z / 10)
    assert found == pytest.approx((0.8, centre - half, centre + half), abs=1e-6)
    assert found == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # as published tables have it
    assert share(0, 10).low == 0.0
    assert share(10, 10).high == 1.0
    assert math.isnan(share(0, 0).value)


def test_a_mean_over_both_orders_counts_pairs_not_orders():
    """Pairs right in 2, 1, 1, 0 orders, and half a pair each at 0 and 1 and one at 1/2 added.

    Mean 1/2; squares about it 1/4 + 1/4 + 1/8 + 1/8 = 3/4; variance 3/4 / 6 = 1/8; half z sqrt(1/8 / 6).
    """
    half = 1.959964 * math.sqrt(1 / 48)
    assert mean_of_seats([1, 0.5, 0.5, 0]) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    shifted = mean_of_seats([0.5, 0, 0, -0.5], -0.5, 0.5)
    assert shifted == pytest.approx((0, -half, half), abs=1e-6)


def test_a_mean_of_scores_has_the_normal_interval():
    """1, 2, 3: deviation 1, half z / sqrt 3."""
    half = 1.959964 / math.sqrt(3)
    assert mean([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half), abs=1e-6)
    assert mean([1]).value == 1
    assert math.isnan(mean([1]).low)


@pytest.mark.parametrize("both", [0.6, 0.9, 0.97])
@pytest.mark.parametrize("flips", [0.02, 0.1, 0.4])
def test_intervals_hold_the_truth_in_95_of_100_studies_whatever_the_dependence(both, flips):
    """2,000 studies of 60 pairs; 1,960 or 1,800 would be 4 standard errors away from 0.95 on either side.

    Two orders of a pair are strongly dependent with few flips, and oppositely so with many. Narrow shares are covered
    more often, which is allowed; less often than 0.925 is not.
    """
    chances = random.Random(0)
    right = both * (1 - flips)
    truth = right + flips / 2
    hits = 0
    for _ in range(2000):
        drawn = chances.choices([1, 0.5, 0], [right, flips, 1 - right - flips], k=60)
        found = mean_of_seats(drawn)
        hits += found.low <= truth <= found.high
    assert hits / 2000 > 0.925


HAND = [
    (Comparison(1.0, 1.0), "first"),  # right
    (Comparison(0.0, 0.0), "second"),  # right
    (Comparison(1.0, 1.0), "second"),  # wrong
    (Comparison(1.0, 0.0), "first"),  # flip: twice the seat shown first
    (Comparison(1.0, 0.0), "second"),  # flip: twice the seat shown first
    (Comparison(0.0, 1.0), "first"),  # flip: twice the seat shown second
    (Comparison(1.0, 0.5), "first"),  # abstains without a contradiction
    (Comparison(1.0, None, "cut"), "first"),  # one order unreadable
    (Comparison(None, None, "cut"), "second"),
    (Comparison(None, 0.0, "busy"), "second"),
]


def test_all_figures_are_those_of_hand_arithmetic():
    """Ten pairs, seven read.

    Orders right: 2 + 2 + 0 + 1 + 1 + 1 + 1.5 = 8.5 of 14. Both agree: 2 right, 1 wrong. Abstained: 4, of them 3 flips.
    Verdicts for the seat shown first: 1 + 1 + 1 + 2 + 2 + 0 + 1.5 = 8.5 of 14, minus 7 of 14.
    """
    found = calibrated(*zip(*HAND, strict=True))
    assert (found.pairs, found.read, found.right, found.wrong) == (10, 7, 2, 1)
    assert (found.abstained, found.flips) == (4, 3)
    assert found.accuracy.value == pytest.approx(8.5 / 14)
    assert found.position_bias.value == pytest.approx(1.5 / 14)
    assert found.agreed_accuracy == share(2, 3)
    assert found.abstention == share(4, 7)
    assert found.flip_rate == share(3, 7)
    assert found.unreadable == share(3, 10)
    assert found.reasons == {"cut": 2, "busy": 1}
    assert (found.brier, found.calibration_error) == (None, None)


def test_position_bias_does_not_depend_on_where_the_better_answers_stand():
    """Swapping the two answers of a pair, and its label, is the same question: nothing may change but rounding."""
    swapped = [
        (
            Comparison(
                None if item.backward is None else 1 - item.backward,
                None if item.forward is None else 1 - item.forward,
                item.reason,
            ),
            "second" if label == "first" else "first",
        )
        for item, label in HAND
    ]
    assert calibrated(*zip(*swapped, strict=True)) == calibrated(*zip(*HAND, strict=True))
    always_first = [(Comparison(1.0, 0.0), label) for label in ("first", "first", "second")]
    assert calibrated(*zip(*always_first, strict=True)).position_bias.value == 0.5
    right_and_chosen_first = [(Comparison(1.0, 1.0), "first")] * 5
    assert calibrated(*zip(*right_and_chosen_first, strict=True)).position_bias.value == 0.0


def test_position_bias_is_half_the_difference_of_the_accuracies_by_seat():
    chances = random.Random(1)
    pairs = [
        (Comparison(chances.random(), chances.random()), chances.choice(["first", "second"]))
        for _ in range(50)
    ]
    better_first = [item.forward if label == "first" else 1 - item.backward for item, label in pairs]
    better_second = [item.backward if label == "first" else 1 - item.forward for item, label in pairs]
    by_seat = [sum(value > 0.5 for value in values) / 50 for values in (better_first, better_second)]
    found = calibrated(*zip(*pairs, strict=True))
    assert found.position_bias.value == pytest.approx((by_seat[0] - by_seat[1]) / 2)
    assert found.accuracy.value == pytest.approx(sum(by_seat) / 2)


def test_brier_score_and_calibration_error_are_those_of_hand_arithmetic():
    """Better answer's mean probabilities .8, .3, .75, .5.

    Brier (.04 + .49 + .0625 + .25)/4. Confidence .8 in bin [.8, .85) right; .7 in [.7, .75) wrong; .75 in [.75, .8)
    right; .5 in [.5, .55) half right: error (|1 - .8| + |0 - .7| + |1 - .75| + |.5 - .5|)/4.
    """
    pairs = [
        (Comparison(0.9, 0.7), "first"),
        (Comparison(0.7, 0.7), "second"),
        (Comparison(0.75, 0.75), "first"),
        (Comparison(0.625, 0.375), "second"),
    ]
    found = calibrated(*zip(*pairs, strict=True))
    assert found.brier.value == pytest.approx((0.04 + 0.49 + 0.0625 + 0.25) / 4)
    assert found.calibration_error == pytest.approx((0.2 + 0.7 + 0.25 + 0) / 4)


def test_a_calibrated_judge_has_little_error_and_an_overconfident_one_much():
    """4,000 pairs whose better answer is drawn with the probability that the judge says, or says too strongly."""
    chances = random.Random(2)
    honest, loud = [], []
    for _ in range(4000):
        said = chances.choice([0.6, 0.7, 0.8, 0.9])
        label = "first" if chances.random() < said else "second"
        honest.append((Comparison(said, said), label))
        loud.append((Comparison(said**0.2, said**0.2), label))
    assert calibrated(*zip(*honest, strict=True)).calibration_error < 0.03
    assert calibrated(*zip(*loud, strict=True)).calibration_error > 0.15


def test_the_table_and_the_dictionary_say_the_same():
    found = calibrated(*zip(*HAND, strict=True))
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["accuracy"]["value"] == pytest.approx(8.5 / 14)
    assert kept["reasons"] == {"cut": 2, "busy": 1}
    table = str(found)
    assert "10 pairs, 7 read in both orders: 2 right, 1 wrong, 4 abstained (3 flips)" in table
    assert f"accuracy, mean over both orders       {found.accuracy}" in table
    assert "0.607 [" in table
    assert "2 without a verdict: cut" in table
    nothing = calibrated([Comparison(None, None, "gone")], ["first"])
    assert json.loads(json.dumps(nothing.to_dict()))["accuracy"]["value"] is None
    assert "accuracy, mean over both orders       -" in str(nothing)


def test_reasons_that_differ_in_an_example_only_are_one():
    reasons = ["no verdict: 'so'", "cut", "no verdict: 'so so'"]
    assert missing_reasons([Comparison(None, None, reason) for reason in reasons]) == {
        "no verdict: 'so'": 2,
        "cut": 1,
    }


def test_rows_without_columns_are_refused():
    with pytest.raises(TypeError, match="got str; of a DatasetDict pass one split"):
        labelled_pairs(DatasetDict(train=Dataset.from_list([{"prompt": "q"}])))


def turn(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {
            "prompt": [turn("user", "q")],
            "chosen": [turn("assistant", "good")],
            "rejected": [turn("assistant", "bad")],
        },
        {
            "chosen": [turn("user", "q"), turn("assistant", "good")],
            "rejected": [turn("user", "q"), turn("assistant", "bad")],
        },
        {  # HuggingFaceH4/ultrafeedback_binarized
            "prompt": "q",
            "chosen": [turn("user", "q"), turn("assistant", "good")],
            "rejected": [turn("user", "q"), turn("assistant", "bad")],
        },
        {"question": "q", "first": "bad", "second": "good", "label": 2},
        {"question": "q", "first": "good", "second": "bad", "label": "first"},
        {"input": "q", "output_1": "bad", "output_2": "good", "label": 2},
    ],
)
def test_rows_are_read_with_the_usual_columns_from_lists_and_datasets(row):
    for rows in ([row], Dataset.from_list([row])):
        (pair,) = labelled_pairs(rows)
        answers = {"first": pair.first, "second": pair.second}
        assert answers.pop(pair.better) == "good"
        assert list(answers.values()) == ["bad"]
        assert pair.question in ("q", [turn("user", "q")])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "there are no labelled pairs"),
        ([{"prompt": "q", "chosen": "a"}], "row 1 .* no rejected; it has prompt, chosen"),
        ([{"prompt": "q", "answer": "a"}], "row 1 .* no label"),
        ([{"question": "q", "first": "a", "second": "b", "label": 0}], "its label is 0; allowed: 1 or 2"),
        (
            [{"question": "q", "first": "a", "second": "b", "label": True}],
            "its label is True; allowed: 1 or 2",
        ),
        ([{"chosen": "q a", "rejected": "q b"}], "texts in chosen and rejected but no prompt"),
        ([{"prompt": "", "chosen": "a", "rejected": "b"}], "its prompt is ''"),
        (
            [{"prompt": "q", "chosen": [turn("user", "a")], "rejected": "b"}],
            "row 1 .* a response has the messages user",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows, said):
    with pytest.raises(ValueError, match=said):
        labelled_pairs(rows)


def test_a_judge_calibrates_itself_on_a_dataset():
    """A judge of length that always takes the seat shown first where lengths are equal: 2 right, 1 wrong, 1 flip."""
    asked = []

    def longer(questions):
        asked.extend(questions)
        pairs = [question.split(" | ") for question in questions]
        return [LetterChoice(float(len(first) >= len(second)), 1.0) for first, second in pairs]

    judge = PairwiseJudge(longer, ask=lambda _, first, second: f"{first} | {second}")
    rows = [("aaa", "b"), ("cc", "d"), ("e", "ff"), ("g", "h")]
    pairs = Dataset.from_list([{"prompt": "q", "chosen": one, "rejected": other} for one, other in rows])
    found = judge.calibrate(pairs)
    assert len(asked) == 8
    assert (found.right, found.wrong, found.flips) == (2, 1, 1)
    assert found.accuracy.value == 5 / 8
    assert found.position_bias.value == 1 / 8
