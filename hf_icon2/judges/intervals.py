"""Shares and means with their 95 % intervals, whose unit is the pair of answers, never the single reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

_Z = NormalDist().inv_cdf(0.975)


class Estimate(NamedTuple):
    """A figure and its 95 % interval; all NaN where there is nothing to measure it on.

    Args:
        value: What was observed.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float | None]:
        """The three numbers, None for NaN, which JSON lacks."""
        return {name: None if math.isnan(x) else x for name, x in self._asdict().items()}


NOTHING = Estimate(math.nan, math.nan, math.nan)


def share(count: int, total: int) -> Estimate:
    """A share of independent pairs, with Wilson's interval (1927)."""
    if total == 0:
        return NOTHING
    value, spread = count / total, _Z * _Z / total
    middle = (value + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(value * (1 - value) / total + spread / (4 * total)) / (1 + spread)
    low = 0.0 if count == 0 else middle - half  # exactly, where rounding would leave 1e-17
    high = 1.0 if count == total else middle + half
    return Estimate(value, low, high)


def mean(values: Sequence[float]) -> Estimate:
    """A mean of one figure per pair, with the normal interval; it has no ends for fewer than two."""
    if not values:
        return NOTHING
    value, number = fmean(values), len(values)
    if number == 1:
        return Estimate(value, math.nan, math.nan)
    half = _Z * stdev(values) / math.sqrt(number)
    return Estimate(value, value - half, value + half)


def mean_of_seats(values: Sequence[float], least: float = 0.0, most: float = 1.0) -> Estimate:
    """A mean of one value per pair, such as how many of its two orders are right.

    Both orders of a pair are one observation, so their dependence, whichever way it goes, is in the variance. For
    the interval two pairs are added, spread evenly over the four outcomes of two orders: one half at either end,
    one in the middle (Agresti and Min 2005, who do so for the difference of two paired shares). Without them the
    interval of a judge that is always right would have no width.

    Args:
        values: One per pair, from `least` to `most`.
        least: Smallest value possible.
        most: Largest value possible.
    """
    if not values:
        return NOTHING
    middle = (least + most) / 2
    number = len(values) + 2
    centre = (math.fsum(values) + 2 * middle) / number
    squares = math.fsum((value - centre) ** 2 for value in values)
    added = (least - centre) ** 2 / 2 + (middle - centre) ** 2 + (most - centre) ** 2 / 2
    half = _Z * math.sqrt((squares + added) / number / number)
    return Estimate(fmean(values), max(least, centre - half), min(most, centre + half))


def table(lines: Sequence[tuple[str, object]]) -> str:
    """Names and figures in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}} {figure}" for name, figure in lines)
