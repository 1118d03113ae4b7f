"""What MT-Bench says of a model, and of two: figures with intervals whose unit is the question."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_icon2.evaluation.doubts import Side
from hf_icon2.evaluation.win_rate import WinRate
from hf_icon2.judges.intervals import Estimate, table


@dataclass(frozen=True)
class Grades:
    """How one model is graded.

    Args:
        mean: Over all graded turns.
        turns: Of each turn.
        categories: Of each category, both turns.
        graded: Turns with a grade.
        failed: Turns without; left out of all means, never guessed.
        cut: Replies that ended at the token limit; None where the file of answers does not say.
        side: Length and repetitions of the replies.
        reasons: Why grades are missing, and how often.
    """

    mean: Estimate
    turns: list[Estimate]
    categories: dict[str, Estimate]
    graded: int
    failed: int
    cut: int | None
    side: Side
    reasons: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: an estimate becomes value, low and high."""
        return {
            **self.__dict__,
            "mean": self.mean.to_dict(),
            "turns": [turn.to_dict() for turn in self.turns],
            "categories": {name: mean.to_dict() for name, mean in self.categories.items()},
            "side": asdict(self.side),
        }

    def __str__(self) -> str:
        lines = [
            ("mean grade", self.mean),
            *((f"turn {number}", turn) for number, turn in enumerate(self.turns, 1)),
            *self.categories.items(),
            ("turns graded, failed", f"{self.graded}, {self.failed}"),
            ("replies cut at the token limit", "not said" if self.cut is None else self.cut),
            ("mean length, characters", f"{self.side.mean_length:.0f}"),
            ("replies given to several questions", f"{self.side.duplicates:.3f}"),
        ]
        notes = [f"{count} without a grade: {reason}" for reason, count in list(self.reasons.items())[:3]]
        return "\n".join([table(lines), *notes])


@dataclass(frozen=True)
class Duel:
    """How one model fares against another, every turn judged in both orders.

    Args:
        overall: Of both turns; a win needs both orders, as in FastChat.
        turns: Of each turn.
        categories: Win rates of each category, both turns.
    """

    overall: WinRate
    turns: list[WinRate]
    categories: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: an estimate becomes value, low and high."""
        return {
            "overall": self.overall.to_dict(),
            "turns": [turn.to_dict() for turn in self.turns],
            "categories": {name: rate.to_dict() for name, rate in self.categories.items()},
        }

    def __str__(self) -> str:
        lines = [
            *((f"turn {number}", turn.win_rate) for number, turn in enumerate(self.turns, 1)),
            *self.categories.items(),
        ]
        return f"{self.overall}\nwin rate of the first side by turn and category\n{table(lines)}"
