"""Arena scores: planted strengths and style come back, intervals cover, and no model moves another."""

import json
import math
import random

import numpy as np
import pytest

from hf_icon2.evaluation.arena import Battle, arena_scores, comparison_battles, verdict_battles
from hf_icon2.evaluation.bradley_terry import fitted
from hf_icon2.evaluation.style import STYLE, Style, style_difference, style_of
from hf_icon2.judges.verdicts import Comparison

PLANTED = {"length": 1.5, "header": -2.0, "list": 1.0, "bold": 0.5}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def planted(number, strength, *, seed=0, same=0.0, longer=0.2, model="m", style=PLANTED):
    """Two games per question; with probability `same` the second repeats the first. Planted strength and style."""
    chance = np.random.default_rng(seed)
    battles = []
    for question in range(number):
        features = {name: float(chance.normal(longer, 0.4)) for name in style}
        win = sigmoid(strength + sum(style[name] * value for name, value in features.items()))
        first = float(chance.random() < win)
        second = first if chance.random() < same else float(chance.random() < win)
        battles += [Battle(f"q{question}", model, score, features=features) for score in (first, second)]
    return battles


def met(strengths, number, seed=0):
    """Battles of every model with every other and with the baseline."""
    chance = np.random.default_rng(seed)
    found = []
    for question in range(number):
        for place, (one, strong) in enumerate(strengths.items()):
            for other, weak in [("base", 0.0), *list(strengths.items())[:place]]:
                score = float(chance.random() < sigmoid(strong - weak))
                found.append(Battle(f"q{question}", one, score, opponent=other))
    return found


def test_verdicts_are_counted_as_arena_hard_counts_them():
    """The baseline is A in the first game: A>>B loses 3 times, and as A the model wins once: (0*3 + 1)/4."""
    battles = verdict_battles("q", "m", ("[[A>>B]]", "a>b"))
    assert [(item.score, item.weight) for item in battles] == [(0, 3), (1, 1)]
    assert arena_scores(battles, "base")["m"].value == pytest.approx(0.25, abs=1e-6)
    assert [item.score for item in verdict_battles("q", "m", ("A=B", "B>>A"))] == [0.5, 0]
    assert verdict_battles("q", "m", ("A>B", None)) == []
    with pytest.raises(ValueError, match=r"the verdict is 'C>A'; allowed: A>>B, A>B"):
        verdict_battles("q", "m", ("C>A", "A>B"))


def test_verdicts_of_our_judges_are_two_battles():
    battles = comparison_battles("q", "m", Comparison(0.8, 0.4))
    assert [item.score for item in battles] == [0.8, 0.4]
    assert comparison_battles("q", "m", Comparison(None, 0.4)) == []


def test_without_style_the_score_is_the_weighted_mean():
    chance = random.Random(0)
    labels = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
    battles = [
        item for q in range(50) for item in verdict_battles(f"q{q}", "m", tuple(chance.choices(labels, k=2)))
    ]
    mean = sum(item.score * item.weight for item in battles) / sum(item.weight for item in battles)
    found = arena_scores(battles, "base")["m"]
    assert found.value == pytest.approx(mean, abs=1e-6)
    assert found.strength == pytest.approx(math.log(mean / (1 - mean)), abs=1e-5)
    assert (found.questions, found.style) == (50, {})


@pytest.mark.parametrize("style", [(), ("length",), ("bold", "length"), ("list", "header", "bold"), STYLE])
def test_planted_strength_and_style_are_recovered_for_every_subset(style):
    """8,000 questions whose judge likes exactly the features controlled for; all others are noise."""
    weights = {name: PLANTED[name] if name in style else 0.0 for name in STYLE}
    found = arena_scores(planted(8000, 0.5, style=weights), "base", style=style, rounds=2)["m"]
    assert found.value == pytest.approx(sigmoid(0.5), abs=0.02)
    assert found.style == pytest.approx({name: PLANTED[name] for name in style}, abs=0.15)
    backwards = arena_scores(planted(8000, 0.5, style=weights), "base", style=style[::-1], rounds=2)["m"]
    assert backwards.strength == pytest.approx(found.strength, abs=1e-8)
    assert backwards.style == pytest.approx(found.style, abs=1e-7)


def test_a_win_by_length_alone_is_taken_out():
    """The judge likes length (3 per unit) and the answers are longer by 0.4: 73 % raw, one half at equal length."""
    battles = planted(2000, 0.0, longer=0.4, style={"length": 3.0})
    assert arena_scores(battles, "base", rounds=2)["m"].value > 0.7
    found = arena_scores(battles, "base", style=["length"])["m"]
    assert found.low < 0.5 < found.high


def test_the_fit_agrees_with_scikit_learn():
    """Second formulation: logistic regression without penalty on the same columns."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    chance = np.random.default_rng(0)
    design, weights = chance.normal(size=(300, 4)), chance.integers(1, 4, (3, 300)).astype(float)
    scores = (chance.random(300) < sigmoid(design @ [0.5, -1, 0.2, 0])).astype(float)
    found = fitted(design, scores, weights)
    for row, heavy in zip(found, weights, strict=True):
        model = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
        model.fit(design, scores, sample_weight=heavy)
        assert row == pytest.approx(model.coef_[0], abs=1e-5)


def test_the_fit_reaches_the_top_where_weights_differ_much_and_features_decide():
    """The ridged log-likelihood is concave, so its top is the one place where its slope is 0."""
    chance = np.random.default_rng(1)
    for study in range(120):
        rows, columns = int(chance.integers(3, 60)), int(chance.integers(1, 6))
        design = chance.normal(size=(rows, columns)) * chance.choice([0.1, 1.0, 5.0])
        design[:, 0] = chance.choice([-1, 1, 0], rows)
        decided = (design @ chance.normal(size=columns) > 0).astype(float)
        scores = (decided, chance.choice([0, 0.5, 1], rows), chance.random(rows))[study % 3]
        weights = chance.choice([1, 3, 1e-3, 100.0], rows)
        found = fitted(design, scores, weights[None])[0]
        expected = np.exp(-np.logaddexp(0, -design @ found))
        slope = (weights * (scores - expected)) @ design - 1e-6 * found
        assert np.abs(slope).max() < 1e-3


def test_adding_a_model_changes_nobodys_score():
    battles = planted(100, 0.3, model="old")
    alone = arena_scores(battles, "base", style=STYLE)
    joined = arena_scores(
        [*battles, *planted(100, -2.0, seed=1, longer=2.0, model="new")], "base", style=STYLE
    )
    assert joined["old"] == alone["old"]
    assert list(joined) == ["old", "new"]


def test_strengths_among_several_models_are_recovered():
    strengths = {"weak": -1.0, "middle": 0.2, "strong": 1.3}
    found = arena_scores(met(strengths, 2000), "base", rounds=50)
    assert list(found) == ["strong", "middle", "weak"]
    for name, strength in strengths.items():
        assert found[name].strength == pytest.approx(strength, abs=0.12)
        assert found[name].low < sigmoid(strength) < found[name].high


def test_a_model_is_placed_over_others_that_met_the_baseline():
    """By hand: b beats the baseline 3:1 and a beats b 3:1, so a's odds against the baseline are 9:1."""
    battles = [
        Battle(f"q{row}", name, float(row < 3), opponent=other)
        for row in range(4)
        for name, other in (("b", None), ("a", "b"))
    ]
    found = arena_scores(battles, "base", rounds=20)
    assert found["a"].value == pytest.approx(0.9, abs=1e-5)
    assert found["b"].value == pytest.approx(0.75, abs=1e-5)


def test_a_model_that_wins_everything_has_a_finite_strength_and_an_interval_with_width():
    battles = [Battle(f"q{row}", "m", 1.0, features={"length": 0.1 * row}) for row in range(40)]
    for style in ((), ("length",)):
        found = arena_scores(battles, "base", style=style)["m"]
        assert found.value > 0.99
        assert math.isfinite(found.strength)
        assert 0.1 < found.low < found.value <= found.high <= 1
    assert 0.85 < arena_scores(battles, "base")["m"].low < 0.99


def test_a_style_that_cannot_be_told_from_strength_is_called_out():
    same = [Battle(item.question, "m", item.score, features={"length": 0.3}) for item in planted(50, 0.5)]
    assert (
        "can hardly be told apart" in arena_scores(same, "base", style=["length"], rounds=5)["m"].warnings[0]
    )
    none = [Battle(item.question, "m", item.score, features={"length": 0.0}) for item in planted(50, 0.5)]
    found = arena_scores(none, "base", style=["length"], rounds=5)["m"]
    assert (found.warnings, found.style) == ((), {"length": 0})


def coverage(same, style, truth, *, studies=300, exploded=False):
    """Share of simulated studies of clear verdicts whose interval holds the true score.

    `exploded` draws rows as Arena-Hard does: a game is three rows, and each row a unit of its own.
    """
    inside = 0
    for seed in range(studies):
        battles = [
            Battle(item.question, "m", item.score, 3.0, item.features)
            for item in planted(60, math.log(truth / (1 - truth)), seed=seed, same=same, style=style)
        ]
        if exploded:
            battles = [
                Battle(str(row), "m", item.score, 1.0, item.features) for row, item in enumerate(battles * 3)
            ]
        found = arena_scores(battles, "base", style=tuple(style), rounds=200, seed=seed)["m"]
        inside += found.low <= truth <= found.high
    return inside / studies


@pytest.mark.parametrize(("same", "style"), [(0.0, {}), (0.8, {}), (0.8, {"length": 1.0})])
def test_the_interval_covers_the_truth_in_95_of_100(same, style):
    """60 questions, two games each, 300 studies: 95 % give or take 3 deviations is 0.91 to 0.99."""
    assert 0.915 <= coverage(same, style, 0.7) <= 0.985


def test_intervals_of_exploded_rows_are_far_too_narrow():
    """Six rows per question that nearly always end alike are one observation, not six."""
    assert coverage(0.8, {}, 0.7, studies=100, exploded=True) < 0.75


def test_clear_verdicts_do_not_narrow_the_interval():
    """Every verdict counted 3 times leaves score and interval as they are; three rows instead would shrink it."""
    battles = planted(60, 0.4)
    heavy = [Battle(item.question, "m", item.score, 3.0) for item in battles]
    found, tripled = arena_scores(battles, "base")["m"], arena_scores(heavy, "base")["m"]
    assert (tripled.low, tripled.high) == pytest.approx((found.low, found.high), abs=1e-6)


def test_scores_are_plain_data_and_the_same_for_the_same_seed():
    battles = planted(30, 0.4)
    found = arena_scores(battles, "base", style=["length"])["m"]
    assert arena_scores(battles, "base", style=["length"])["m"] == found
    assert arena_scores(battles, "base", style=["length"], seed=1)["m"] != found
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize(
    ("battles", "style", "said"),
    [
        ([], (), "there are no battles"),
        ([Battle("q", "m", 1.5)], (), "score 1.5 and weight 1.0; allowed: 0 to 1, and more than 0"),
        ([Battle("q", "m", 1.0, 0.0)], (), "weight 0.0"),
        ([Battle("q", "m", math.nan)], (), "score nan"),
        ([Battle("q", "base", 1.0)], (), "'base', which is its opponent or the baseline"),
        ([Battle("q", "m", 1.0)], ("length",), "lacks the feature 'length'; it has: none"),
        (
            [Battle("q", "m", 1.0, features={"length": 1.0})],
            ("size",),
            "lacks the feature 'size'; it has: length",
        ),
        ([Battle("q", "m", 1.0, features={"length": math.inf})], ("length",), "no finite number"),
        ([Battle("q", "m", 1.0)], ("length", "length"), "names a feature twice"),
        ([Battle("q", "m", 1.0, opponent="n")], (), "'m' and those it met never fought the baseline 'base'"),
    ],
)
def test_what_are_no_battles_is_a_sentence(battles, style, said):
    with pytest.raises(ValueError, match=said):
        arena_scores(battles, "base", style=style)


def test_style_is_counted_outside_of_code():
    text = "# Title\nSome **bold** words.\n- one\n* two\n 3. three\n```\n# code\n- no\n**no**\n```\n## End\n__also__"
    found = style_of(text)
    assert (found.headers, found.lists, found.bold) == (2, 3, 2)
    assert style_of(text, 99).tokens == 99
    assert style_of("Two words, here.").tokens == 5
    assert style_of("") == Style(0, 0, 0, 0)


def test_differences_of_style_by_hand():
    """Tokens 30 and 10: 20/40. Densities of lists 3/31 and 0/11: d/(d + 1) = (3/31)/(34/31) = 3/34."""
    found = style_difference(Style(30, 0, 3, 0), Style(10, 0, 0, 0))
    assert found == pytest.approx({"length": 0.5, "header": 0, "list": 3 / 34, "bold": 0})
    other = style_difference(Style(10, 0, 0, 0), Style(30, 0, 3, 0))
    assert other == pytest.approx({name: -value for name, value in found.items()})
    assert set(style_difference(style_of(""), style_of("")).values()) == {0}
