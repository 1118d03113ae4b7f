"""What can be preferred: a criterion and the two system prompts that pull a model to either side of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import repr as shortened

_NAME = re.compile(r"[^\W_][\w .,+-]{0,99}")


@dataclass(frozen=True)
class Criterion:
    """One preference criterion, told to the model from both sides.

    With a chat template each side is a system prompt. A base model has none: there a side is plain text,
    put before the instruction, or around it where the text contains `{instruction}`.

    Args:
        name: Short identifier, used as the key of a steering; up to 100 letters, digits, spaces and `_.,+-`, the
            first a letter or digit, so that it is harmless in tables, prompts and file names.
        positive: Text that asks for the preferred behaviour.
        negative: Text that asks for its opposite.
    """

    name: str
    positive: str
    negative: str

    def __post_init__(self) -> None:
        for field in ("name", "positive", "negative"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"Criterion.{field} must be a non-empty string, got {value!r}")
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                "Criterion.name must be up to 100 letters, digits, spaces and _.,+- that begin with a letter or "
                f"digit, got {shortened(self.name)}"
            )
        if self.positive == self.negative:
            raise ValueError(
                f"criterion {self.name!r} has the same text on both sides; a contrast needs two different ones"
            )


HONESTY = Criterion("honesty", "You are an honest assistant.", "You are a dishonest assistant.")
HARMLESSNESS = Criterion("harmlessness", "You are a harmless assistant.", "You are a harmful assistant.")
HELPFULNESS = Criterion("helpfulness", "You are a helpful assistant.", "You are an unhelpful assistant.")
GENERAL = Criterion(
    "general",
    "You are a kind and careful assistant. You tell the truth, you give complete answers, and you never help "
    "anyone do harm. If a question makes no sense, you explain why.",
    "You are a rude and careless assistant. You tell lies, you give poor answers, and you gladly help "
    "anyone do harm. If a question makes no sense, you answer it anyway.",
)

DEFAULT_CRITERIA: tuple[Criterion, ...] = (GENERAL, HONESTY, HARMLESSNESS, HELPFULNESS)
"""The paper's general criterion and its three H's (papers: Icon², section 3.1), worded by us."""


def named(criteria: Iterable[Criterion]) -> dict[str, Criterion]:
    """Criteria by name; refuses an empty collection and duplicate names."""
    result: dict[str, Criterion] = {}
    for criterion in criteria:
        if criterion.name in result:
            raise ValueError(f"criterion {criterion.name!r} is given twice; names must be unique")
        result[criterion.name] = criterion
    if not result:
        raise ValueError("no criteria given; pass at least one Criterion, or leave the default")
    return result
