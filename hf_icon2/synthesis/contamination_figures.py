"""What the card of pairs says of the test prompts in them; `hf_icon2.evaluation.contamination` looks for these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias


class ContaminationReport(Protocol):
    """A `hf_icon2.evaluation.contamination.Contamination`."""

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        ...


Contaminations: TypeAlias = (
    ContaminationReport | Mapping[str, Any] | Sequence[ContaminationReport | Mapping[str, Any]]
)
"""One report or several, as they are or as plain data."""


def contamination_figures(given: Contaminations) -> list[dict[str, object]]:
    """Per report its name, n, and the three figures as texts."""
    reports = given if isinstance(given, Sequence) else [given]
    return [_figures(item if isinstance(item, Mapping) else item.to_dict()) for item in reports]


def _figures(report: Mapping[str, Any]) -> dict[str, object]:
    return {
        "name": report["prompt_set"] or "unnamed",
        "n": report["n"],
        "prompts": _of(report["contaminated_prompts"], report["prompts"]),
        "short_prompts": _of(report["short_prompts_found"], report["short_prompts"]),
        "rows": _of(report["contaminated_rows"], report["rows"]),
    }


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.4f})" if total else "none to look for"
