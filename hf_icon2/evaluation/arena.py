"""Arena scores: Bradley-Terry strengths from battles, with the effect of style taken out, and honest intervals.

P(model wins) = sigmoid(strength of the model - strength of its opponent + sum of b_k x_k) with the style features x_k
of the battle. A score is the probability to beat the baseline with answers of the baseline's style, sigmoid(strength -
strength of the baseline). Against one baseline and without style that is the weighted mean of the scores, Arena-Hard's.

Models are fitted together only if they met, directly or over others; the baseline does not count as a meeting. So a
model that fights the baseline alone changes nobody's score. (Arena-Hard fits one table and scales the features over all
of it, and every new model moves the others.) Features are not centred: zero is the baseline's style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_icon2.evaluation.bradley_terry import fitted, sigmoid
from hf_icon2.evaluation.resampling import ENDS, Numbers, drawn_counts, numbered
from hf_icon2.judges.verdicts import Comparison

_LABELS = {"A>>B": (1.0, 3.0), "A>B": (1.0, 1.0), "A=B": (0.5, 1.0), "B>A": (0.0, 1.0), "B>>A": (0.0, 3.0)}
"""Score of A, and weight."""
_LEAST_TOLD_APART = 1e-3  # smallest eigenvalue of the columns' cosines
_MOST_NUMBERS = 2_000_000  # weights held at once while fitting draws


@dataclass(frozen=True)
class Battle:
    """One game of a model.

    Args:
        question: Id or text; all battles on one question are drawn together.
        model: Who plays.
        score: 1 if it wins, 0 if its opponent does, one half for a tie, or a probability.
        weight: How often the game counts; Arena-Hard counts clear verdicts 3 times.
        features: Differences of style to the opponent, see `style_difference`.
        opponent: Who else plays; None is the baseline.
    """

    question: str
    model: str
    score: float
    weight: float = 1.0
    features: Mapping[str, float] = field(default_factory=dict)
    opponent: str | None = None


@dataclass(frozen=True)
class ArenaScore:
    """How good a model is against the baseline.

    Args:
        value: Probability to beat the baseline, at the baseline's style where style is controlled; 0 to 1.
        low: Lower end of the 95 % interval from drawing questions again.
        high: Its upper end.
        strength: Log-odds to beat the baseline, whose own strength is 0.
        style: Coefficient per feature, in log-odds per unit of the feature.
        questions: Questions with a battle of this model.
        warnings: Why the score may mislead.
    """

    value: float
    low: float
    high: float
    strength: float
    style: Mapping[str, float]
    questions: int
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "style": dict(self.style), "warnings": list(self.warnings)}


def verdict_battles(
    question: str,
    model: str,
    games: tuple[str | None, str | None],
    features: Mapping[str, float] | None = None,
) -> list[Battle]:
    """The two battles of Arena-Hard's two verdicts on one question; none if a verdict is missing.

    Args:
        question: Its id.
        model: Who plays the baseline.
        games: Verdicts "A>>B", "A>B", "A=B", "B>A" or "B>>A", with or without brackets, upper case or lower. The
            baseline is A in the first game and B in the second, as Arena-Hard seats them.
        features: Differences of style to the baseline.

    Raises:
        ValueError: If a verdict is another.
    """
    if None in games:
        return []
    (first, light), (second, heavy) = (_label(game) for game in games if game is not None)
    return [
        Battle(question, model, 1 - first, light, features or {}),
        Battle(question, model, second, heavy, features or {}),
    ]


def comparison_battles(
    question: str, model: str, comparison: Comparison, features: Mapping[str, float] | None = None
) -> list[Battle]:
    """The two battles of a judge's two verdicts on the model's and the baseline's answer; none if one is missing.

    Args:
        question: Its id.
        model: Who plays the baseline.
        comparison: The model's answer is the first.
        features: Differences of style to the baseline.
    """
    if comparison.forward is None or comparison.backward is None:
        return []
    return [
        Battle(question, model, score, 1.0, features or {})
        for score in (comparison.forward, comparison.backward)
    ]


def arena_scores(
    battles: Sequence[Battle],
    baseline: str,
    *,
    style: Sequence[str] = (),
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, ArenaScore]:
    """Scores of all models against the baseline, best first.

    Args:
        battles: Games against the baseline, between models, or both.
        baseline: Name of the baseline.
        style: Names of the features to control for, any of those that the battles have, in any order.
        rounds: How often to draw questions, 2 or more.
        seed: Of the drawing.

    Raises:
        ValueError: If there are no battles, one lacks a feature or has an impossible number, or a model is not
            connected to the baseline.
    """
    if rounds < 2:
        raise ValueError(f"rounds={rounds}; an interval needs 2 or more")
    if len(set(style)) < len(style):
        raise ValueError(f"style={tuple(style)} names a feature twice; name each once")
    for battle in battles:
        _check(battle, baseline, style)
    if not battles:
        raise ValueError("there are no battles; give one or more")
    found: dict[str, ArenaScore] = {}
    for group in _groups(battles, baseline):
        found |= _scores_of_group(group, baseline, tuple(style), rounds, seed)
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _label(text: str) -> tuple[float, float]:
    name = text.strip().strip("[]").strip().upper()
    if name not in _LABELS:
        raise ValueError(f"the verdict is {text!r}; allowed: {', '.join(_LABELS)}")
    return _LABELS[name]


def _check(battle: Battle, baseline: str, style: Sequence[str]) -> None:
    if battle.model == baseline or battle.model == battle.opponent:
        raise ValueError(
            f"a battle's model is {battle.model!r}, which is its opponent or the baseline; write battles from the "
            "other side's view"
        )
    if not 0 <= battle.score <= 1 or not 0 < battle.weight < np.inf:
        raise ValueError(
            f"a battle has score {battle.score} and weight {battle.weight}; allowed: 0 to 1, and more than 0"
        )
    if missing := [name for name in style if name not in battle.features]:
        known = ", ".join(battle.features) or "none"
        raise ValueError(f"a battle on {battle.question!r} lacks the feature {missing[0]!r}; it has: {known}")
    if not all(np.isfinite(battle.features[name]) for name in style):
        raise ValueError(f"a battle on {battle.question!r} has a feature that is no finite number")


def _groups(battles: Sequence[Battle], baseline: str) -> list[list[Battle]]:
    """Battles of models that met, directly or over others."""
    leader = {name: name for item in battles for name in (item.model, item.opponent) if name is not None}

    def led_by(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for item in battles:
        if item.opponent not in (None, baseline):
            leader[led_by(item.model)] = led_by(str(item.opponent))
    groups: dict[str, list[Battle]] = {}
    for item in battles:
        groups.setdefault(led_by(item.model), []).append(item)
    for group in groups.values():
        if all(item.opponent not in (None, baseline) for item in group):
            raise ValueError(
                f"{group[0].model!r} and those it met never fought the baseline {baseline!r}; give battles that "
                "connect them, or choose another baseline"
            )
    return list(groups.values())


def _scores_of_group(
    battles: Sequence[Battle], baseline: str, style: tuple[str, ...], rounds: int, seed: int
) -> dict[str, ArenaScore]:
    models = sorted({name for item in battles for name in (item.model, item.opponent) if name} - {baseline})
    design, scale = _design(battles, models, style)
    scores = np.array([item.score for item in battles])
    weights = np.array([item.weight for item in battles])
    questions = numbered([item.question for item in battles])
    point = fitted(design, scores, weights[None])[0]
    drawn = _drawn(design, scores, weights, questions, len(models), rounds, seed)
    coefficients = dict(zip(style, (point[len(models) :] / scale).tolist(), strict=True))
    warnings = _warnings(design, style)
    found = {}
    for place, name in enumerate(models):
        value = float(sigmoid(point[place : place + 1])[0])
        low, high = np.quantile(sigmoid(drawn[:, place]), ENDS)
        played = design[:, place] != 0
        found[name] = ArenaScore(
            value=value,
            low=min(value, float(low)),
            high=max(value, float(high)),
            strength=float(point[place]),
            style=coefficients,
            questions=len(set(questions[played].tolist())),
            warnings=warnings,
        )
    return found


def _design(
    battles: Sequence[Battle], models: Sequence[str], style: Sequence[str]
) -> tuple[Numbers, Numbers]:
    """Columns of models, +1 or -1, and of features over their root mean square; and these, (number of features,)."""
    column = {name: place for place, name in enumerate(models)}
    design = np.zeros((len(battles), len(models) + len(style)))
    for row, item in enumerate(battles):
        design[row, column[item.model]] = 1.0
        if item.opponent in column:
            design[row, column[str(item.opponent)]] = -1.0
        design[row, len(models) :] = [item.features[name] for name in style]
    scale = np.sqrt((design[:, len(models) :] ** 2).mean(axis=0))
    scale[scale == 0] = 1.0
    design[:, len(models) :] /= scale
    return design, scale


def _drawn(
    design: Numbers,
    scores: Numbers,
    weights: Numbers,
    questions: NDArray[np.int64],
    models: int,
    rounds: int,
    seed: int,
) -> Numbers:
    """Coefficients of all draws. Every model fights the baseline on the added questions, with its usual weight."""
    number = int(questions.max()) + 1
    added = np.zeros((3 * models, design.shape[1]))
    added[np.arange(3 * models), np.repeat(np.arange(models), 3)] = 1.0
    usual = [
        weights[design[:, place] != 0].sum() / len(set(questions[design[:, place] != 0].tolist()))
        for place in range(models)
    ]
    rows = np.concatenate([design, added])
    wanted = np.concatenate([scores, np.tile([0.0, 0.5, 1.0], models)])
    heavy = np.concatenate([weights, np.repeat(usual, 3)])
    place = np.concatenate([questions, np.tile(number + np.arange(3), models)])
    size = max(1, _MOST_NUMBERS // len(rows))
    return np.concatenate(
        [
            fitted(rows, wanted, heavy * counts[start : start + size, place])
            for counts in drawn_counts(number, rounds, seed)
            for start in range(0, len(counts), size)
        ]
    )


def _warnings(design: Numbers, style: Sequence[str]) -> tuple[str, ...]:
    lengths = np.sqrt((design**2).sum(axis=0))
    columns = design[:, lengths > 0] / lengths[lengths > 0]
    if not style or np.linalg.eigvalsh(columns.T @ columns)[0] > _LEAST_TOLD_APART:
        return ()
    return (
        "the style differs from the baseline's by nearly the same on every question, or two features go together, so "
        "strength and style can hardly be told apart",
    )
