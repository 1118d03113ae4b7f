"""The logistic regression of `length_control`: soft labels, an L1 penalty, folds of whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_icon2.evaluation.resampling import Numbers

FOLDS = 5
_STRENGTHS = 10
_ALMOST = 1e-9
_SETTINGS = {"l1_ratio": 1, "solver": "liblinear", "fit_intercept": False, "random_state": 123}


class Rows(NamedTuple):
    """Rows to fit.

    Args:
        features: (N, F).
        preferences: 0 to 1; (N,).
        weights: (N,).
        folds: Rows with one number are left out together; (N,).
    """

    features: Numbers
    preferences: Numbers
    weights: Numbers
    folds: NDArray[np.int64]


def require_sklearn() -> None:
    """Says what to install where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "the length-controlled win rate needs scikit-learn; run: pip install 'hf_icon2[evaluate]'",
            name=error.name,
        ) from error


def stacked(parts: Sequence[Rows]) -> Rows:
    """All rows of several parts, in order; folds of different parts are different."""
    starts = np.cumsum([0, *(part.folds.max(initial=-1) + 1 for part in parts)])
    return Rows(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.preferences for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.folds + start for part, start in zip(parts, starts, strict=False)]),
    )


def chosen_strength(rows: Rows) -> float:
    """C, the inverse strength of the penalty, with the best mean log-loss on five folds, of ten from 1e-4 to 1e4.

    That is scikit-learn's `LogisticRegressionCV`, written out: it could score soft labels only with a global setting.
    """
    from sklearn.model_selection import GroupKFold

    candidates = np.logspace(-4, 4, _STRENGTHS)
    losses = np.zeros(_STRENGTHS)
    for train, test in GroupKFold(FOLDS).split(rows.features, groups=rows.folds):
        part = Rows(*(column[train] for column in rows))
        coefficients = np.stack([fitted(part, strength) for strength in candidates])
        scores = rows.features[test] @ coefficients.T  # (rows, candidates)
        wanted = rows.preferences[test, None]
        loss = wanted * np.logaddexp(0, -scores) + (1 - wanted) * np.logaddexp(0, scores)
        losses += (rows.weights[test, None] * loss).mean(axis=0)
    return float(candidates[losses.argmin()])


def fitted(rows: Rows, strength: float) -> Numbers:
    """Coefficients, (F,), with every row taken as won with weight y and as lost with weight 1 - y.

    No row is won or lost entirely, but for 1e-9 of it: where all rows of one label weigh nothing, liblinear drops them
    and fits the other label's sign at random.
    """
    from sklearn.linear_model import LogisticRegression

    won = np.clip(rows.preferences, _ALMOST, 1 - _ALMOST)
    labels = np.repeat([1, 0], len(won))
    weights = np.concatenate([rows.weights * won, rows.weights * (1 - won)])
    model: Any = LogisticRegression(C=strength, **_SETTINGS)
    model.fit(np.concatenate([rows.features] * 2), labels, sample_weight=weights)
    return np.asarray(model.coef_[0], dtype=np.float64)
