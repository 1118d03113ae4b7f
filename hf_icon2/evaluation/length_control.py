"""Win rates with the effect of length taken out, by the regression of AlpacaEval 2 (`length_controlled_v1`).

P(the model wins on row i) = sigmoid(phi tanh(d_i / s) + psi g_i + theta): d_i is the baseline's length minus the
model's in characters, s the sample standard deviation of all d_i, g_i AlpacaEval's difficulty of instruction i. The
length-controlled win rate is the mean of sigmoid(psi g_i + theta), the prediction for answers of equal length
(Dubois et al. 2024, Length-Controlled AlpacaEval).

The difficulties belong to AlpacaEval's 805 instructions. On other prompts the term is left out, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from hf_icon2.evaluation.bradley_terry import sigmoid
from hf_icon2.evaluation.length_regression import (
    FOLDS,
    Rows,
    chosen_strength,
    fitted,
    require_sklearn,
    stacked,
)
from hf_icon2.evaluation.preferences import checked_preferences
from hf_icon2.evaluation.resampling import ENDS, Numbers, drawn_counts, numbered

_GAMED_WEIGHT = 0.2  # lambda of AlpacaEval, shared by all gamed baselines
_LEAST_SPREAD = 0.1
_HARDLY_ANY = 1e4  # largest C
_MUCH_PENALISED = 0.02


@dataclass(frozen=True)
class GamedBaseline:
    """The baseline told to be verbose or concise, judged against itself: its rows teach what length alone does.

    Args:
        preferences: Probability that the gamed answers win; (M,).
        lengths: Characters of the gamed answers; (M,).
        baseline_lengths: Characters of the baseline's; (M,).
        difficulty: Of the instructions, where the model's rows have it; (M,).
    """

    preferences: Sequence[float] | Numbers
    lengths: Sequence[float] | Numbers
    baseline_lengths: Sequence[float] | Numbers
    difficulty: Sequence[float] | Numbers | None = None


@dataclass(frozen=True)
class LengthWeights:
    """Coefficients of the regression.

    Args:
        length: phi; negative where the judge likes length, because lengths are the baseline's minus the model's.
        difficulty: psi; None where the term is left out.
        strength: theta, the model's log-odds to win at equal length (and difficulty 0).
    """

    length: float
    difficulty: float | None
    strength: float


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate, 0 to 1.

    Args:
        value: The win rate predicted for answers as long as the baseline's.
        low: Lower end of the 95 % interval from drawing prompts again and fitting each draw.
        high: Its upper end.
        standard_error: Standard deviation over the draws. (AlpacaEval prints the spread of the prediction over
            instructions instead, in which the uncertainty of the fit is not.)
        weights: Coefficients.
        penalty: C, the inverse strength of the L1 penalty, chosen by cross-validation.
        rows: Rows with a verdict.
        gamed: Rows of gamed baselines.
        warnings: Why the figure may mislead.
    """

    value: float
    low: float
    high: float
    standard_error: float
    weights: LengthWeights
    penalty: float
    rows: int
    gamed: int
    warnings: tuple[str, ...]

    @property
    def left_out(self) -> str:
        """What AlpacaEval's own regression has and this one has not, in words; empty if nothing."""
        missing = [
            *(["the difficulty of instructions"] if self.weights.difficulty is None else []),
            *([] if self.gamed else ["rows of gamed baselines"]),
        ]
        return f"without {' and '.join(missing)}, which AlpacaEval's has" if missing else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "warnings": list(self.warnings), "left_out": self.left_out}

    def __str__(self) -> str:
        text = f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{text}, {self.left_out}" if self.left_out else text


def win_rate_from_weights(theta: float, psi: float, difficulty: Sequence[float] | Numbers) -> float:
    """The length-controlled win rate of published weights: mean of sigmoid(theta + psi g_i), 0 to 1.

    Of two models against each other, give the differences of their theta and psi.

    Args:
        theta: The weight `not_gamed_baseline.astype(float)`.
        psi: The weight `instruction_difficulty`.
        difficulty: g, one per instruction; (N,).
    """
    return float(sigmoid(theta + psi * np.asarray(difficulty, dtype=np.float64)).mean())


def length_controlled(
    preferences: Sequence[float] | Numbers,
    lengths: Sequence[float] | Numbers,
    baseline_lengths: Sequence[float] | Numbers,
    *,
    difficulty: Sequence[float] | Numbers | None = None,
    gamed: Sequence[GamedBaseline] = (),
    prompts: Sequence[object] | None = None,
    rounds: int = 200,
    seed: int = 0,
) -> LengthControlled:
    """The length-controlled win rate of one model against a baseline, by AlpacaEval's own fit.

    Every row stands twice, as won with weight y and as lost with weight 1 - y; rows of gamed baselines have a theta
    column of 0 and share a weight of 0.2. Logistic regression without intercept, L1 penalty, liblinear, C from ten
    values by five folds of whole prompts and soft log-loss. The draws of the interval keep C and s.

    Args:
        preferences: Probability that the model wins, per row: 0 to 1, NaN for no verdict; (N,).
        lengths: Characters of the model's answers; (N,).
        baseline_lengths: Characters of the baseline's; (N,).
        difficulty: AlpacaEval's, per row; (N,). None leaves the term out.
        gamed: AlpacaEval's are two, verbose and concise.
        prompts: Ids of the rows' prompts; rows with one id are drawn, and left out of folds, together. None takes every
            row for its own.
        rounds: How often to draw, 2 or more.
        seed: Of the drawing.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If the columns do not fit together, fewer than 5 prompts have a verdict, or all answers differ from
            the baseline's by one and the same length.
    """
    require_sklearn()
    if rounds < 2:
        raise ValueError(f"rounds={rounds}; an interval needs 2 or more")
    columns = _columns(preferences, lengths, baseline_lengths, difficulty)
    rows = _judged(columns, prompts)
    taught = [
        _gamed_rows(item, difficulty is not None, _GAMED_WEIGHT / len(gamed), number)
        for number, item in enumerate(gamed, 1)
    ]
    together = stacked([*taught, rows])  # gamed rows first, as AlpacaEval has them
    penalty = chosen_strength(together)
    found = fitted(together, penalty)
    value = _at_equal_length(columns, found)
    drawn = _drawn(rows, taught, penalty, rounds, seed)
    low, high = np.quantile(drawn, ENDS)
    return LengthControlled(
        value=value,
        low=min(value, float(low)),
        high=max(value, float(high)),
        standard_error=float(drawn.std(ddof=1)),
        weights=LengthWeights(
            float(found[0]), None if difficulty is None else float(found[1]), float(found[-1])
        ),
        penalty=penalty,
        rows=len(rows.preferences),
        gamed=sum(len(part.preferences) for part in taught),
        warnings=_warnings(columns, value, _at_equal_length(columns, fitted(together, _HARDLY_ANY))),
    )


class _Columns(NamedTuple):
    """Features (N, 2 or 3): tanh of the scaled difference of lengths, difficulty if it is known, 1; and preferences."""

    features: Numbers
    preferences: Numbers


def _columns(
    preferences: Sequence[float] | Numbers,
    lengths: Sequence[float] | Numbers,
    baseline_lengths: Sequence[float] | Numbers,
    difficulty: Sequence[float] | Numbers | None,
) -> _Columns:
    values = checked_preferences(preferences)
    own, other = (np.asarray(column, dtype=np.float64) for column in (lengths, baseline_lengths))
    known = [] if difficulty is None else [np.asarray(difficulty, dtype=np.float64)]
    if len({len(values), len(own), len(other), *map(len, known)}) > 1:
        given = f"{len(values)} preferences, {len(own)} lengths, {len(other)} of the baseline"
        raise ValueError(
            f"{given}{f', {len(known[0])} difficulties' if known else ''}; give one of each per row"
        )
    if any(column.ndim != 1 for column in (own, other, *known)):
        raise ValueError(
            "lengths and difficulties are lists of one number per row; flatten those of another shape"
        )
    if not all(np.isfinite(column).all() for column in (own, other, *known)):
        raise ValueError(
            "a length or a difficulty is no finite number; give characters, and AlpacaEval's difficulty"
        )
    return _Columns(np.column_stack([_length_feature(other - own), *known, np.ones_like(values)]), values)


def _length_feature(differences: Numbers) -> Numbers:
    """Tanh of the differences in units of their sample standard deviation; all 0 where no lengths differ."""
    if not differences.any():
        return np.zeros_like(differences)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    if spread == 0:
        raise ValueError(
            f"all answers are {-differences[0]:g} characters longer than the baseline's, so length cannot be told "
            "from quality; use the raw win rate"
        )
    return np.tanh(differences / spread)


def _judged(columns: _Columns, prompts: Sequence[object] | None) -> Rows:
    """The rows with a verdict, with weight 1."""
    names = range(len(columns.preferences)) if prompts is None else prompts
    if len(names) != len(columns.preferences):
        raise ValueError(f"{len(names)} prompts for {len(columns.preferences)} preferences; give one per row")
    kept = np.flatnonzero(~np.isnan(columns.preferences))
    groups = numbered([names[row] for row in kept.tolist()])
    number = len(set(groups.tolist()))
    if number < FOLDS:
        raise ValueError(
            f"{number} prompts have a verdict; length control needs {FOLDS} or more, and hundreds to say much"
        )
    return Rows(columns.features[kept], columns.preferences[kept], np.ones(len(kept)), groups)


def _gamed_rows(gamed: GamedBaseline, with_difficulty: bool, weight: float, number: int) -> Rows:
    if with_difficulty != (gamed.difficulty is not None):
        raise ValueError(
            f"gamed baseline {number} comes {'without' if with_difficulty else 'with'} difficulty, unlike the model's "
            "rows; give it to both or to neither"
        )
    columns = _columns(gamed.preferences, gamed.lengths, gamed.baseline_lengths, gamed.difficulty)
    columns.features[:, -1] = 0  # theta is the model's own
    kept = ~np.isnan(columns.preferences)
    size = int(kept.sum())
    return Rows(columns.features[kept], columns.preferences[kept], np.full(size, weight), np.arange(size))


def _drawn(rows: Rows, taught: Sequence[Rows], penalty: float, rounds: int, seed: int) -> Numbers:
    """Win rates of all draws, (rounds,). The added prompts have equal lengths and the usual difficulty and size."""
    middle = rows.features.mean(axis=0)
    middle[0] = 0.0
    added = Rows(np.tile(middle, (3, 1)), np.array([0.0, 0.5, 1.0]), np.zeros(3), np.arange(3))
    together = stacked([*taught, rows, added])
    masses = np.bincount(rows.folds).astype(np.float64)
    fixed = together.weights[: -len(rows.weights) - 3]
    values = []
    for counts in drawn_counts(len(masses), rounds, seed):
        for drawn in counts:
            own = drawn[rows.folds]
            weights = np.concatenate([fixed, own, drawn[-3:] * masses.mean()])
            found = fitted(together._replace(weights=weights), penalty)
            predicted = sigmoid(together.features[len(fixed) :, 1:] @ found[1:])
            values.append(np.average(predicted, weights=weights[len(fixed) :]))
    return np.array(values)


def _at_equal_length(columns: _Columns, coefficients: Numbers) -> float:
    return float(sigmoid(columns.features[:, 1:] @ coefficients[1:]).mean())


def _warnings(columns: _Columns, value: float, free: float) -> tuple[str, ...]:
    """What is odd; `free` is the win rate of a fit that is hardly penalised."""
    feature, found = columns.features[:, 0], []
    if feature.any() and feature.std() < _LEAST_SPREAD:
        found.append(
            "the lengths differ from the baseline's by nearly the same everywhere, so length and quality can hardly be "
            "told apart"
        )
    if abs(value - free) > _MUCH_PENALISED:
        found.append(
            f"the penalty that cross-validation chose moves the win rate from {free:.3f} to {value:.3f}, and its "
            "interval too; give more rows, or read the raw win rate"
        )
    return tuple(found)
