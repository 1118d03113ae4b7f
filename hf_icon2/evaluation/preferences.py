"""Raw win rates of preferences, as AlpacaEval defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_icon2.evaluation.resampling import Numbers, resampled_mean


@dataclass(frozen=True)
class RawWinRate:
    """How often a model is preferred to the baseline. All shares are 0 to 1; AlpacaEval prints percent.

    Args:
        value: Mean preference.
        low: Lower end of the 95 % interval from drawing prompts again.
        high: Its upper end.
        standard_error: Sample standard deviation (ddof 1) over the square root of the number of rows, AlpacaEval's;
            it takes rows for independent.
        discrete: Share of rows above one half, those at one half counted half: `discrete_win_rate`.
        wins: Rows above one half.
        losses: Rows below one half.
        draws: Rows at one half.
    """

    value: float
    low: float
    high: float
    standard_error: float
    discrete: float
    wins: int
    losses: int
    draws: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, None for NaN, which JSON lacks."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def from_alpaca_eval(preferences: Sequence[float | None]) -> Numbers:
    """AlpacaEval's stored preferences as probabilities that the model wins.

    Args:
        preferences: 1 (the baseline wins) to 2 (the model does); 0 and 1.5 are ties. What is None, NaN or negative has
            no verdict.

    Returns:
        0 to 1, NaN where there is no verdict, so that rows keep their places; (N,). `raw_win_rate` leaves NaN out.

    Raises:
        ValueError: If one is of another scale, or all are 0 or 1, which may be another scale.
    """
    stored = np.array([math.nan if item is None else item for item in preferences], dtype=np.float64)
    stored[stored < 0] = math.nan
    if {*stored[~np.isnan(stored)].tolist()} == {0, 1}:
        raise ValueError(
            "all preferences are 0 or 1, on AlpacaEval's scale ties and lost rows; if they are lost and won rows, they "
            "need no conversion, else write ties as 1.5"
        )
    stored[stored == 0] = 1.5
    strange = stored[(stored < 1) | (stored > 2)]
    if strange.size:
        raise ValueError(
            f"a preference is {strange[0]:g}; AlpacaEval's are 1 to 2, or 0 for a tie. Preferences of 0 to 1 need no "
            "conversion"
        )
    return stored - 1


def raw_win_rate(
    preferences: Sequence[float] | Numbers, *, prompts: Sequence[object] | None = None, seed: int = 0
) -> RawWinRate:
    """The raw win rate of AlpacaEval 2, with an interval that draws prompts again.

    Args:
        preferences: Probability that the model wins, per row: 0 to 1, one half for a tie, NaN for no verdict; (N,).
        prompts: Ids of the rows' prompts; rows with one id are drawn together. None takes every row for its own.
        seed: Of the drawing.

    Raises:
        ValueError: If a preference is outside 0 to 1, none is left, or the prompts are not one per row.
    """
    values = checked_preferences(preferences)
    kept = ~np.isnan(values)
    if prompts is not None:
        if len(prompts) != len(values):
            raise ValueError(f"{len(prompts)} prompts for {len(values)} preferences; give one per row")
        prompts = [name for name, keep in zip(prompts, kept, strict=True) if keep]
    values = values[kept]
    if not values.size:
        raise ValueError("there are no preferences; give one or more of 0 to 1")
    estimate, _ = resampled_mean(values, prompts, seed=seed)
    wins, losses = int((values > 0.5).sum()), int((values < 0.5).sum())
    draws = len(values) - wins - losses
    return RawWinRate(
        *estimate,
        standard_error=_standard_error(values),
        discrete=(wins + draws / 2) / len(values),
        wins=wins,
        losses=losses,
        draws=draws,
    )


def checked_preferences(preferences: Sequence[float] | Numbers) -> Numbers:
    """They as an array, (N,); refuses another shape, and what is outside 0 to 1."""
    values = np.asarray(preferences, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"the preferences have the shape {values.shape}; give a list, one number per row")
    strange = values[(values < 0) | (values > 1)]
    if strange.size:
        raise ValueError(
            f"a preference is {strange[0]:g}; allowed: 0 to 1, the probability that the model wins. AlpacaEval's scale "
            "of 1 to 2 is read by from_alpaca_eval"
        )
    return values


def _standard_error(values: Numbers) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))
