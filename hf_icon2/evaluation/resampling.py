"""Intervals by drawing prompts again: the unit is the prompt with all that was judged on it, never the single row.

Two added prompts, spread evenly over the outcomes of two games (one half at either end, one in the middle), are
drawn along with the others, as Agresti and Min (2005) add them to paired shares. Without them a side that wins
everywhere would have an interval without width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_icon2.judges.intervals import NOTHING, Estimate

ROUNDS = 2000
ENDS = (0.025, 0.975)
"""Quantiles of a 95 % interval."""

_ADDED = (0.5, 1.0, 0.5)
_MOST_COUNTS = 4_000_000  # numbers held at once while drawing

Numbers = NDArray[np.float64]


def numbered(prompts: Sequence[object]) -> NDArray[np.int64]:
    """Equal prompts, texts, ids or conversations, as equal numbers from 0 in order of appearance; (N,)."""
    seen: dict[Hashable, int] = {}
    keys = (prompt if isinstance(prompt, (str, int)) else repr(prompt) for prompt in prompts)
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def drawn_counts(prompts: int, rounds: int, seed: int) -> Iterator[Numbers]:
    """How often each prompt is drawn in each round, in blocks of (rounds, prompts + 3).

    The last three columns are the added prompts: all lost, even, all won. A round draws prompts + 2 in all.

    Args:
        prompts: Number of prompts, 1 or more.
        rounds: Number of rounds.
        seed: The same seed, the same draws.
    """
    shares = np.array([1.0] * prompts + list(_ADDED)) / (prompts + sum(_ADDED))
    chance = np.random.default_rng(seed)
    block = max(1, _MOST_COUNTS // len(shares))
    for start in range(0, rounds, block):
        size = min(block, rounds - start)
        yield chance.multinomial(prompts + round(sum(_ADDED)), shares, size=size).astype(np.float64)


def resampled_mean(
    values: Sequence[float] | Numbers,
    prompts: Sequence[object] | None = None,
    *,
    weights: Sequence[float] | Numbers | None = None,
    least: float = 0.0,
    most: float = 1.0,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[Estimate, float]:
    """A weighted mean with its 95 % interval and its standard error under drawing prompts again.

    Args:
        values: One per row, from `least` to `most`; (N,).
        prompts: What rows belong together by; None takes every row for a prompt of its own.
        weights: Of the rows; None weighs all alike.
        least: Smallest value possible.
        most: Largest value possible.
        rounds: How often to draw.
        seed: The same seed, the same interval.

    Returns:
        The estimate, and the standard deviation of the drawn means. NaN without rows.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return NOTHING, float("nan")
    heavy = np.ones_like(numbers) if weights is None else np.asarray(weights, dtype=np.float64)
    group = np.arange(numbers.size) if prompts is None else numbered(prompts)
    masses = np.bincount(group, weights=heavy)
    sums = np.bincount(group, weights=heavy * numbers)
    usual = masses.mean()
    masses = np.append(masses, [usual] * 3)
    sums = np.append(sums, usual * np.array([least, (least + most) / 2, most]))
    drawn = np.concatenate(
        [(counts @ sums) / (counts @ masses) for counts in drawn_counts(len(masses) - 3, rounds, seed)]
    )
    value = float(np.average(numbers, weights=heavy))
    low, high = np.quantile(drawn, ENDS)
    return Estimate(value, min(value, float(low)), max(value, float(high))), float(drawn.std(ddof=1))
