"""Weighted Bradley-Terry fits with covariates, many draws at once."""

from __future__ import annotations

import numpy as np

from hf_icon2.evaluation.resampling import Numbers

RIDGE = 1e-6
"""Added to the diagonal of the Hessian, as half of so much times the squared coefficients is to the loss: a millionth
of a battle. It keeps strengths finite where a model wins everything, at about 15 log-odds, and changes nothing else
that is printed."""

_STEPS = 60
_LONGEST = 3.0  # log-odds per step
_CLOSE = 1e-9


def fitted(design: Numbers, scores: Numbers, weights: Numbers) -> Numbers:
    """Coefficients c that maximise the likelihood of sigmoid(X c), by Newton's method; (R, P).

    Args:
        design: X: +1 for the model, -1 for its opponent, covariates as they are; (N, P).
        scores: 0 to 1, one half for a tie; (N,).
        weights: Of the rows in each of R fits; (R, N).
    """
    found = np.zeros((len(weights), design.shape[1]))
    ridge = RIDGE * np.eye(design.shape[1])
    squares = design[:, :, None] * design[:, None, :]
    squares = squares.reshape(len(design), -1)
    for _ in range(_STEPS):
        expected = sigmoid(found @ design.T)  # (R, N)
        slope = (weights * (scores - expected)) @ design - RIDGE * found
        curved = (weights * expected * (1 - expected)) @ squares
        hessian = curved.reshape(-1, design.shape[1], design.shape[1]) + ridge
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        found += np.clip(step, -_LONGEST, _LONGEST)
        if np.abs(step).max(initial=0) < _CLOSE:
            break
    return found


def sigmoid(scores: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -scores))
