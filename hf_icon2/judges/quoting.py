"""How a prompt quotes what others wrote, so that no line of it can be taken for one of the prompt's own."""

from __future__ import annotations

QUOTE = "| "


def quoted(text: str) -> str:
    """A text with `| ` before every line, whatever breaks its lines."""
    # splitlines knows every line break of Unicode, some of which a model may take for one and "\n" does not cover.
    return "\n".join(QUOTE + line for line in text.splitlines())
