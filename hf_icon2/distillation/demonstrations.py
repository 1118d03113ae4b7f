"""The demonstrations in a black box's prompt: hand-written ones, and a pool of what both rankers agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_icon2.judges.verdicts import Demonstration
from hf_icon2.storage import read_json_lines, shortened


@dataclass(frozen=True)
class Agreed:
    """Answers that black box and student rank alike.

    Args:
        demonstration: The question with these answers, best first.
        share: Of the answers that were ranked, above 0 to 1.
        margin: Least step between neighbours in the student's mean log-probability, nats per token.
    """

    demonstration: Demonstration
    share: float
    margin: float


@dataclass(frozen=True)
class DemonstrationPool:
    """What a black box is shown.

    Args:
        static: Always shown, first.
        dynamic: From agreement, the surest first.
        most: Largest number of dynamic ones; 0 or more.
    """

    static: tuple[Demonstration, ...] = ()
    dynamic: tuple[Agreed, ...] = ()
    most: int = 4

    @property
    def shown(self) -> tuple[Demonstration, ...]:
        """All of them, in the order shown."""
        return (*self.static, *(one.demonstration for one in self.dynamic))

    def updated(self, agreed: Iterable[Agreed]) -> DemonstrationPool:
        """The pool after a cycle: the surest agreements of all cycles so far.

        Surest is where the larger share of the answers is agreed on, which happens by chance least, and of those
        where the student's least sure step is largest. An older demonstration goes only for a surer one: later
        answers of a student that has learned are more alike, and an order among them says less. A question is shown
        once, and never where a static demonstration shows it.
        """
        told = {one.question for one in self.static}
        kept: dict[str, Agreed] = {}
        for one in sorted((*agreed, *self.dynamic), key=_surest_first):
            if one.demonstration.question not in told:
                kept.setdefault(one.demonstration.question, one)
        return replace(self, dynamic=tuple(kept.values())[: self.most])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "static": [_as_row(one) for one in self.static],
            "dynamic": [
                {**_as_row(one.demonstration), "share": one.share, "margin": one.margin}
                for one in self.dynamic
            ],
            "most": self.most,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DemonstrationPool:
        """From plain JSON data."""
        dynamic = (Agreed(_demonstration(row), row["share"], row["margin"]) for row in data["dynamic"])
        return cls(tuple(map(_demonstration, data["static"])), tuple(dynamic), data["most"])


def _surest_first(one: Agreed) -> tuple[float, float, str]:
    return -one.share, -one.margin, one.demonstration.question


def read_demonstrations(path: str | Path) -> tuple[Demonstration, ...]:
    """Demonstrations of a JSONL file: objects of `question`, and `answers`, best first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a row of another form, naming it.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source} of demonstrations")
    found = []
    for number, row in enumerate(read_json_lines(source), 1):
        try:
            found.append(_demonstration(row))
        except ValueError as error:
            raise ValueError(f"line {number} of {source}: {error}") from None
    return tuple(found)


def _demonstration(row: object) -> Demonstration:
    question = row.get("question") if isinstance(row, dict) else None
    answers = row.get("answers") if isinstance(row, dict) else None
    if not (isinstance(question, str) and question.strip() and _are_answers(answers)):
        raise ValueError(
            "a demonstration has a `question` and `answers`, 2 or more different texts, best first; got "
            f"{shortened(row)}"
        )
    return Demonstration(question, tuple(answers or ()))


def _are_answers(value: object) -> bool:
    if not isinstance(value, list) or len(value) < 2:
        return False
    return all(isinstance(one, str) and one.strip() for one in value) and len(set(value)) == len(value)


def _as_row(one: Demonstration) -> dict[str, Any]:
    return {"question": one.question, "answers": list(one.answers)}
