"""What both orders of a pair show together: who wins where, contradictions, a preference for a seat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from hf_icon2.judges.intervals import Estimate, mean_of_seats
from hf_icon2.judges.verdicts import Comparison

Seats = tuple[float, float]
"""Probabilities that one and the same answer wins, where it is shown first and where it is shown second."""


def seats_of(comparison: Comparison, which: Literal["first", "second"]) -> Seats | None:
    """Both probabilities of one of the two answers; None if one is missing."""
    if comparison.forward is None or comparison.backward is None:
        return None
    if which == "first":
        return comparison.forward, comparison.backward
    return 1 - comparison.backward, 1 - comparison.forward


def hit(probability: float) -> float:
    """1 for a verdict for the answer, 0 for one against it, one half where there is none."""
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def contradictions(read: Sequence[Seats]) -> int:
    """How many pairs get a verdict for each answer."""
    return sum((first - 0.5) * (second - 0.5) < 0 for first, second in read)


def position_bias(read: Sequence[Seats]) -> Estimate:
    """Share of verdicts for the answer shown first, minus one half: -0.5 to 0.5.

    A pair whose verdicts agree adds one verdict for either seat, whichever answer is the better, so only a judge that
    disagrees with itself has a bias. It is half the difference of how often an answer wins shown first and second.
    """
    return mean_of_seats([(hit(first) - hit(second)) / 2 for first, second in read], -0.5, 0.5)


def gives_probabilities(read: Sequence[Seats]) -> bool:
    """Whether any verdict is less than certain."""
    return any(0 < value < 1 and value != 0.5 for pair in read for value in pair)


def missing_reasons(comparisons: Sequence[Comparison]) -> dict[str, int]:
    """Why comparisons have no probability, and how many; see `counted_reasons`."""
    return counted_reasons(item.reason for item in comparisons if item.probability is None)


def counted_reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    """Reasons, the most frequent first, and how often each is given.

    Reasons that are alike up to a colon, where an example or what a server says follows, are one; the first is shown.
    """
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        said = reason or "no reason given"
        alike.setdefault(said.partition(": ")[0], []).append(said)
    return {same[0]: len(same) for same in sorted(alike.values(), key=len, reverse=True)}
