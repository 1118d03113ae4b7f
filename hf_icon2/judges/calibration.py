"""How good a judge is, measured on pairs of which the better answer is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from hf_icon2.judges.intervals import Estimate, mean, mean_of_seats, share, table
from hf_icon2.judges.seats import (
    contradictions,
    gives_probabilities,
    hit,
    missing_reasons,
    position_bias,
    seats_of,
)
from hf_icon2.judges.verdicts import Comparison

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """What a judge does on labelled pairs, each asked in both orders.

    All figures but `unreadable` are over the pairs read in both orders. An order is right if its probability is on
    the better answer's side of one half; at exactly one half it counts half. Every estimate comes with its
    95 % interval, in which a pair, not an order, is one observation.

    Args:
        pairs: How many there were.
        read: Of them, with a verdict in both orders.
        right: The better answer wins in both orders.
        wrong: The other one does.
        abstained: Neither does.
        flips: Of those that abstain, contradictions: each order picks another answer.
        accuracy: Mean over both orders.
        agreed_accuracy: Right among right and wrong: accuracy of a judge that may abstain.
        abstention: Share of pairs on which it abstains.
        flip_rate: Share of pairs whose two verdicts contradict each other.
        position_bias: Share of verdicts for the answer shown first, minus one half: -0.5 to 0.5. Half of how much
            more accurate it is with the better answer shown first, so it does not matter where labels put it.
        unreadable: Share of all pairs without a verdict in one order or both.
        brier: Mean of (1 - probability of the better answer)^2, the probability a mean over both orders; 0.25 for
            a judge that always says one half. None for judges that give no probabilities.
        calibration_error: Expected difference of confidence and accuracy, in 10 bins of confidence. None likewise.
        reasons: Why verdicts are missing, the most frequent first, and how often.
    """

    pairs: int
    read: int
    right: int
    wrong: int
    abstained: int
    flips: int
    accuracy: Estimate
    agreed_accuracy: Estimate
    abstention: Estimate
    flip_rate: Estimate
    position_bias: Estimate
    unreadable: Estimate
    brier: Estimate | None
    calibration_error: float | None
    reasons: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: an estimate becomes value, low and high."""
        return {
            name: value.to_dict() if isinstance(value, Estimate) else value
            for name, value in self.__dict__.items()
        }

    def __str__(self) -> str:
        lines: list[tuple[str, object]] = [
            ("", "value [95 % interval]"),
            ("accuracy, mean over both orders", self.accuracy),
            ("accuracy where both orders agree", self.agreed_accuracy),
            ("abstentions", self.abstention),
            ("flip rate", self.flip_rate),
            ("position bias (first seat, minus 1/2)", self.position_bias),
            ("unreadable", self.unreadable),
        ]
        if self.brier is not None:
            lines.append(("Brier score", self.brier))
            lines.append(("expected calibration error", f"{self.calibration_error:.3f}"))
        counts = (
            f"{self.pairs} pairs, {self.read} read in both orders: {self.right} right, {self.wrong} wrong, "
            f"{self.abstained} abstained ({self.flips} flips)"
        )
        notes = [f"{count} without a verdict: {reason}" for reason, count in list(self.reasons.items())[:3]]
        return "\n".join([counts, table(lines), *notes])


def calibrated(
    comparisons: Sequence[Comparison], better: Sequence[Literal["first", "second"]]
) -> Calibration:
    """Compares verdicts with labels.

    Args:
        comparisons: One per pair.
        better: Which answer of each pair is better.
    """
    both = [seats_of(item, label) for item, label in zip(comparisons, better, strict=True)]
    read = [seats for seats in both if seats is not None]  # of the better answer
    winners = Counter(Comparison(*seats).winner for seats in read)
    right, wrong, abstained = (winners[name] for name in ("first", "second", None))
    flips = contradictions(read)
    soft = gives_probabilities(read)
    means = [(first + second) / 2 for first, second in read]
    return Calibration(
        pairs=len(both),
        read=len(read),
        right=right,
        wrong=wrong,
        abstained=abstained,
        flips=flips,
        accuracy=mean_of_seats([(hit(first) + hit(second)) / 2 for first, second in read]),
        agreed_accuracy=share(right, right + wrong),
        abstention=share(abstained, len(read)),
        flip_rate=share(flips, len(read)),
        position_bias=position_bias(read),
        unreadable=share(len(both) - len(read), len(both)),
        brier=mean([(1 - value) ** 2 for value in means]) if soft else None,
        calibration_error=_expected_error(means) if soft else None,
        reasons=missing_reasons(comparisons),
    )


def _expected_error(probabilities: Sequence[float]) -> float:
    """Mean over pairs of |accuracy - confidence| of the bin of confidence (one half to one) that a pair is in."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for value in probabilities:
        confidence = max(value, 1 - value)
        index = min(int((confidence - 0.5) * 2 * _BINS), _BINS - 1)
        bins.setdefault(index, []).append((hit(value), confidence))
    return sum(
        len(items) * abs(fmean(hit for hit, _ in items) - fmean(sure for _, sure in items))
        for items in bins.values()
    ) / max(1, len(probabilities))
