"""How often the answers of one side beat those of another, and what should make one doubt it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hf_icon2.judges.intervals import Estimate, mean, mean_of_seats, share, table
from hf_icon2.judges.seats import (
    contradictions,
    gives_probabilities,
    missing_reasons,
    position_bias,
    seats_of,
)
from hf_icon2.judges.verdicts import Comparison

_MOSTLY = 0.5
_MUCH_LONGER = 1.5


@dataclass(frozen=True)
class Side:
    """The answers of one side.

    Args:
        mean_length: Characters.
        duplicates: Share of answers that are given to another prompt too.
        commonest: Share of the most frequent answer.
    """

    mean_length: float
    duplicates: float
    commonest: float


@dataclass(frozen=True)
class WinRate:
    """The first side against the second.

    Args:
        wins: The first answer wins in both orders.
        losses: The second one does.
        abstained: Neither does: ties and contradictions.
        failed: No verdict in one order or both; left out of all shares.
        win_rate: Wins and half of the abstentions, among all that did not fail.
        probability: Mean probability to win, of judges that give probabilities; else None.
        flip_rate: Share of pairs whose two verdicts contradict each other; here and below, of answers that differ.
        position_bias: Share of verdicts for the answer shown first, minus one half.
        longer_wins: Share of decided pairs that the longer answer wins.
        first: The first side.
        second: The second side.
        reasons: Why verdicts are missing, and how often.
    """

    wins: int
    losses: int
    abstained: int
    failed: int
    win_rate: Estimate
    probability: Estimate | None
    flip_rate: Estimate
    position_bias: Estimate
    longer_wins: Estimate
    first: Side
    second: Side
    reasons: dict[str, int]

    @property
    def warnings(self) -> list[str]:
        """Why the win rate may mislead."""
        found = []
        for name, side in (("first", self.first), ("second", self.second)):
            if side.duplicates and side.commonest > _MOSTLY:
                found.append(
                    f"{side.commonest:.0%} of the {name} side's answers are one and the same; a judge that a "
                    "constant answer can fool tells nothing about the model"
                )
        lengths = sorted((self.first.mean_length, self.second.mean_length))
        if lengths[1] > _MUCH_LONGER * lengths[0]:
            found.append("one side's answers are much longer; many judges favour length")
        if self.failed:
            total = self.failed + self.wins + self.losses + self.abstained
            found.append(f"{self.failed} of {total} pairs have no verdict and are left out")
        return found

    def __str__(self) -> str:
        lines = [
            ("win rate of the first side", self.win_rate),
            *([] if self.probability is None else [("mean probability to win", self.probability)]),
            (
                "wins, losses, abstained, failed",
                f"{self.wins}, {self.losses}, {self.abstained}, {self.failed}",
            ),
            ("flip rate", self.flip_rate),
            ("position bias (first seat, minus 1/2)", self.position_bias),
            ("decided for the longer answer", self.longer_wins),
            ("mean length, characters", f"{self.first.mean_length:.0f}, {self.second.mean_length:.0f}"),
            (
                "answers that occur more than once",
                f"{self.first.duplicates:.3f}, {self.second.duplicates:.3f}",
            ),
        ]
        notes = [f"warning: {text}" for text in self.warnings]
        notes += [f"{count} without a verdict: {reason}" for reason, count in list(self.reasons.items())[:3]]
        return "\n".join([table(lines), *notes])


def win_rate(comparisons: Sequence[Comparison], firsts: Sequence[str], seconds: Sequence[str]) -> WinRate:
    """Sums up how two sides compare.

    Args:
        comparisons: One per pair of answers.
        firsts: The first side's answers, 1 or more.
        seconds: The second side's.
    """
    read = [seats for item in comparisons if (seats := seats_of(item, "first")) is not None]
    asked = [
        seats
        for item, first, second in zip(comparisons, firsts, seconds, strict=True)
        if first != second and (seats := seats_of(item, "first")) is not None
    ]
    winners = Counter(Comparison(*seats).winner for seats in read)
    wins, losses, abstained = (winners[name] for name in ("first", "second", None))
    longer = _longer_wins(comparisons, firsts, seconds)
    return WinRate(
        wins=wins,
        losses=losses,
        abstained=abstained,
        failed=len(comparisons) - len(read),
        win_rate=mean_of_seats([1.0] * wins + [0.5] * abstained + [0.0] * losses),
        probability=mean([(one + two) / 2 for one, two in read]) if gives_probabilities(read) else None,
        flip_rate=share(contradictions(asked), len(asked)),
        position_bias=position_bias(asked),
        longer_wins=share(sum(longer), len(longer)),
        first=_side(firsts),
        second=_side(seconds),
        reasons=missing_reasons(comparisons),
    )


def _longer_wins(
    comparisons: Sequence[Comparison], firsts: Sequence[str], seconds: Sequence[str]
) -> list[bool]:
    """Of each decided pair with different lengths, whether the longer answer wins."""
    return [
        (item.winner == "first") == (len(first) > len(second))
        for item, first, second in zip(comparisons, firsts, seconds, strict=True)
        if item.winner is not None and len(first) != len(second)
    ]


def _side(answers: Sequence[str]) -> Side:
    counts = Counter(answers)
    return Side(
        mean_length=fmean(map(len, answers)),
        duplicates=sum(count for count in counts.values() if count > 1) / len(answers),
        commonest=max(counts.values()) / len(answers),
    )
