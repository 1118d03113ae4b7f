"""What is not an instruction at all: sampled rows are judged one by one, and counted by their fault."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from hf_icon2.synthesis.duplicates import NearDuplicates, normalized

FAULTS: Mapping[str, str] = {
    "unfinished": "unfinished (raise max_new_tokens, or the model does not end its user turns)",
    "empty": "without a word in them",
    "special_tokens": "with special tokens inside",
    "header": "starting with a role name (the template may not be the one the model was trained on)",
    "excluded": "in the excluded texts",
    "duplicate": "duplicates (the model may know few instructions, or raise the temperature)",
    "near_duplicate": "near-duplicates",
    "repeated": "in which the user says the same twice",
    "rewritten": "whose text the chat template rewrites",
    "answer": "whose earlier answers are empty, unfinished or hold special tokens (raise max_new_tokens)",
}
"""Why a sampled row is dropped, in the order in which the reasons are looked for."""

_HEADER = re.compile(r"\s*(system|user|human|assistant|model|bot|ai)\s*(:|\n|$)", re.IGNORECASE)
_WINDOW = 512  # rows looked at to decide that nothing more comes
_FEWEST = 5  # usable rows out of these


@dataclass(frozen=True)
class SynthesisReport:
    """What became of the rows a model was asked for; `str(report)` says it in sentences.

    Args:
        raw: Rows sampled, up to the last one that was needed.
        kept: Rows that look like instructions.
        dropped: Rows dropped, by reason; see `FAULTS`.
        examples: The first text dropped for each reason.
        template_system_prompt: System prompt that the chat template injects by itself, usually empty.
    """

    raw: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    template_system_prompt: str = ""

    def __str__(self) -> str:
        text = f"{self.kept} of {self.raw} samples look like instructions"
        if self.dropped:
            text += "; dropped: " + ", ".join(
                f"{count} {FAULTS[name]}" for name, count in self.dropped.items()
            )
        if self.template_system_prompt:
            text += (
                ". The chat template injects a system prompt of its own, and every sample was written under "
                f"it: {self.template_system_prompt!r}"
            )
        return text + "."


class Draft(NamedTuple):
    """A sampled text of the user's before it is judged; alone, a row of one turn."""

    text: str
    seed: int
    finish_reason: str
    has_special: bool

    @property
    def turns(self) -> tuple[Draft, ...]:
        """The user's turns."""
        return (self,)

    @property
    def fault(self) -> str | None:
        """No fault is known before the sieve looks."""
        return None


class Row(Protocol):
    """A sampled row before it is judged."""

    @property
    def turns(self) -> Sequence[Draft]:
        """The user's turns, up to one with a fault."""

    @property
    def fault(self) -> str | None:
        """What is wrong with it beside its turns' texts, a name in `FAULTS`."""


R = TypeVar("R", bound=Row)


class Sieve(Generic[R]):
    """Judges rows in order and counts what becomes of them."""

    def __init__(self, exclude: Iterable[str], near_duplicates: bool) -> None:
        if isinstance(exclude, str):
            raise TypeError("exclude must be a collection of texts, got one string; pass [text]")
        self.kept: list[R] = []
        self._excluded = {normalized(text) for text in exclude}
        self._seen: set[str] = set()
        self._near = NearDuplicates() if near_duplicates else None
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

    @property
    def dry(self) -> bool:
        """Whether hardly any of the latest rows was usable."""
        return len(self._recent) == _WINDOW and sum(self._recent) < _FEWEST

    def rows_for(self, missing: int) -> int:
        """How many rows to sample for that many usable ones, by the latest yield."""
        share = (sum(self._recent) + 1) / (len(self._recent) + 1)
        return math.ceil(missing / share)

    def add(self, row: R) -> bool:
        """Keeps or drops a row; returns whether it was kept."""
        fault = self._fault(row)
        self._recent.append(fault is None)
        if fault is None:
            self.kept.append(row)
            return True
        self._dropped[fault] += 1
        self._examples.setdefault(fault, row.turns[-1].text)
        return False

    def report(self, template_system_prompt: str) -> SynthesisReport:
        """The counts, reasons in the order of `FAULTS`."""
        dropped = {name: self._dropped[name] for name in FAULTS if self._dropped[name]}
        raw = len(self.kept) + sum(dropped.values())
        return SynthesisReport(raw, len(self.kept), dropped, dict(self._examples), template_system_prompt)

    def turn_fault(self, draft: Draft) -> str | None:
        """What is wrong with one turn whatever the others are."""
        faults = {
            "unfinished": draft.finish_reason != "stop",
            "empty": not any(character.isalnum() for character in draft.text),
            "special_tokens": draft.has_special,
            "header": _HEADER.match(draft.text) is not None,
            "excluded": normalized(draft.text) in self._excluded,
        }
        return next((name for name, found in faults.items() if found), None)

    def _fault(self, row: R) -> str | None:
        faults = [fault for draft in row.turns if (fault := self.turn_fault(draft))]
        if fault := next(iter(faults), row.fault):
            return fault
        texts = [normalized(draft.text) for draft in row.turns]
        if len(set(texts)) < len(texts):
            return "repeated"
        if (
            texts[-1] in self._seen
        ):  # what will be answered: "go on" after many turns is one row, not hundreds
            return "duplicate"
        self._seen.add(texts[-1])
        last = row.turns[-1].text
        return "near_duplicate" if self._near is not None and not self._near.add(last) else None
