"""Tables and cells of Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with one line per row."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: float | None) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:g}"


def cell(value: Any, limit: int = 240) -> str:  # noqa: ANN401
    """Text of a prompt or answer that cannot break the table."""
    text = (
        value
        if isinstance(value, str)
        else " ⏎ ".join(f"{turn['role']}: {turn['content']}" for turn in value)
    )
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[:limit] + "…"
    return html.escape(text, quote=False).replace("|", "\\|") or "*(empty)*"
