"""How often the answers of one side beat those of another, and what should make one doubt it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from hf_icon2.evaluation.doubts import (
    Side,
    doubts_about_answers,
    doubts_about_judge,
    moved,
    same,
    side_of,
)
from hf_icon2.evaluation.resampling import numbered, resampled_mean
from hf_icon2.judges.intervals import Estimate, table
from hf_icon2.judges.seats import (
    Seats,
    contradictions,
    gives_probabilities,
    hit,
    missing_reasons,
    seats_of,
)
from hf_icon2.judges.verdicts import Comparison

Winner = Literal["first", "second"] | None


@dataclass(frozen=True)
class WinRate:
    """The first side against the second.

    Estimates come with 95 % intervals from drawing prompts again, each with all its pairs and both orders.

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
        warnings: Why the win rate may mislead, in words.
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
    warnings: list[str]
    reasons: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: an estimate becomes value, low and high."""
        sides = {"first": asdict(self.first), "second": asdict(self.second)}
        return {
            name: value.to_dict() if isinstance(value, Estimate) else sides.get(name, value)
            for name, value in self.__dict__.items()
        }

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
                "answers given to several prompts",
                f"{self.first.duplicates:.3f}, {self.second.duplicates:.3f}",
            ),
        ]
        notes = [f"warning: {text}" for text in self.warnings]
        notes += [f"{count} without a verdict: {reason}" for reason, count in list(self.reasons.items())[:3]]
        return "\n".join([table(lines), *notes])


def win_rate(
    comparisons: Sequence[Comparison],
    firsts: Sequence[str],
    seconds: Sequence[str],
    *,
    prompts: Sequence[object] | None = None,
    seed: int = 0,
) -> WinRate:
    """Sums up how two sides compare.

    Args:
        comparisons: One per pair of answers.
        firsts: The first side's answers, 1 or more.
        seconds: The second side's.
        prompts: What was asked, texts, conversations or ids; pairs with one prompt are drawn together in the intervals.
            None takes every pair for a prompt of its own.
        seed: Of the drawing.

    Raises:
        ValueError: If there are none, or the lists differ in length.
    """
    rows = _rows(comparisons, firsts, seconds, prompts)
    read = [row for row in rows if row.seats is not None]
    asked = [row for row in read if row.first != row.second]
    compared = [row for row in read if row.winner is not None and len(row.first) != len(row.second)]

    def mean(
        rows: Sequence[_Row], figure: Callable[[_Row], float], least: float = 0.0, most: float = 1.0
    ) -> Estimate:
        figures, names = [figure(row) for row in rows], [row.prompt for row in rows]
        return resampled_mean(figures, names, least=least, most=most, seed=seed)[0]

    winners = Counter(row.winner for row in read)
    won, bias = mean(read, _points), mean(asked, _leaning, -0.5, 0.5)
    first, second = side_of(firsts, prompts), side_of(seconds, prompts)
    failed = len(rows) - len(read)
    return WinRate(
        wins=winners["first"],
        losses=winners["second"],
        abstained=winners[None],
        failed=failed,
        win_rate=won,
        probability=mean(read, _probability) if gives_probabilities([row.both for row in read]) else None,
        flip_rate=mean(asked, _flips),
        position_bias=bias,
        longer_wins=mean(compared, _longer_wins),
        first=first,
        second=second,
        warnings=[
            *doubts_about_answers(first, second, same(firsts, seconds), moved(firsts, seconds, prompts), won),
            *doubts_about_judge(len(asked), mean(asked, _is_decided), bias, failed),
        ],
        reasons=missing_reasons(comparisons),
    )


class _Row(NamedTuple):
    seats: Seats | None
    winner: Winner
    first: str
    second: str
    prompt: int

    @property
    def both(self) -> Seats:
        """Probabilities of the first answer in both seats, of a row that has them."""
        assert self.seats is not None
        return self.seats


def _rows(
    comparisons: Sequence[Comparison],
    firsts: Sequence[str],
    seconds: Sequence[str],
    prompts: Sequence[object] | None,
) -> list[_Row]:
    lengths = [len(comparisons), len(firsts), len(seconds), len(comparisons if prompts is None else prompts)]
    if len(set(lengths)) > 1 or not comparisons:
        given = "{} comparisons, {} first and {} second answers, {} prompts".format(*lengths)
        raise ValueError(f"given are {given}; give one of each per pair, and one pair or more")
    numbers = range(len(comparisons)) if prompts is None else numbered(prompts).tolist()
    return [
        _Row(seats_of(item, "first"), item.winner, first, second, number)
        for item, first, second, number in zip(comparisons, firsts, seconds, numbers, strict=True)
    ]


def _points(row: _Row) -> float:
    return {"first": 1.0, None: 0.5, "second": 0.0}[row.winner]


def _probability(row: _Row) -> float:
    return sum(row.both) / 2


def _is_decided(row: _Row) -> float:
    return float(row.winner is not None)


def _longer_wins(row: _Row) -> float:
    return float((row.winner == "first") == (len(row.first) > len(row.second)))


def _flips(row: _Row) -> float:
    return float(contradictions([row.both]))


def _leaning(row: _Row) -> float:
    """Share of the two verdicts that go to the answer shown first, minus one half."""
    first, second = row.both
    return (hit(first) - hit(second)) / 2
