"""Weighted Bradley-Terry fits with covariates, many draws at once."""

from __future__ import annotations

import numpy as np

from hf_icon2.evaluation.resampling import Numbers

RIDGE = 1e-6
"""Added to the diagonal of the Hessian, as half of so much times the squared coefficients is to the loss: a millionth
of a battle. It keeps strengths finite where a model wins everything, at about 15 log-odds, and changes nothing else
that is printed."""

_STEPS = 100
_HALVINGS = 30
_CLOSE = 1e-9
_ROUNDING = 1e-12


def fitted(design: Numbers, scores: Numbers, weights: Numbers) -> Numbers:
    """Coefficients c that maximise the likelihood of sigmoid(X c), by Newton's method; (R, P).

    Full steps can run past the top and never come back where battles weigh very differently or features tell wins from
    losses; so a step is halved until it does not lower the likelihood.

    Args:
        design: X: +1 for the model, -1 for its opponent, covariates as they are; (N, P).
        scores: 0 to 1, one half for a tie; (N,).
        weights: Of the rows in each of R fits; (R, N).
    """
    found = np.zeros((len(weights), design.shape[1]))
    ridge = RIDGE * np.eye(design.shape[1])
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    losses = _losses(found, design, scores, weights)
    for _ in range(_STEPS):
        expected = sigmoid(found @ design.T)  # (R, N)
        slope = (weights * (scores - expected)) @ design - RIDGE * found
        curved = (weights * expected * (1 - expected)) @ squares
        hessian = curved.reshape(-1, *ridge.shape) + ridge
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        for _ in range(_HALVINGS):
            tried = _losses(found + step, design, scores, weights)
            worse = tried > losses * (1 + _ROUNDING)
            if not worse.any():
                break
            step[worse] /= 2
        step[worse] = 0
        found += step
        losses = np.where(worse, losses, tried)
        if np.abs(step).max(initial=0) < _CLOSE:
            break
    return found


def _losses(found: Numbers, design: Numbers, scores: Numbers, weights: Numbers) -> Numbers:
    """Minus the log-likelihood of each fit, and the ridge; (R,)."""
    log_odds = found @ design.T
    rows = weights * (np.logaddexp(0, log_odds) - scores * log_odds)
    return np.asarray(rows.sum(axis=1) + RIDGE / 2 * (found**2).sum(axis=1))


def sigmoid(scores: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -scores))
