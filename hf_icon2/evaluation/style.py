"""The style of answers as Arena-Hard counts it: length, and how dense headers, lists and bold text are."""

from __future__ import annotations

import re
from typing import NamedTuple

STYLE = ("length", "header", "list", "bold")
"""Names of all features."""

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
_TOKEN = re.compile(r"\w+|[^\w\s]")


class Style(NamedTuple):
    """Counts of one answer; Markdown inside of code blocks is not counted."""

    tokens: int
    headers: int
    lists: int
    bold: int


def style_of(answer: str, tokens: int | None = None) -> Style:
    """Counts the style of an answer.

    Args:
        answer: Its text.
        tokens: How many it has. None counts words and punctuation marks; Arena-Hard counts tokens of gpt-4o, whose
            numbers differ by a factor that nearly cancels in the feature.
    """
    prose = _CODE.sub("", answer)
    return Style(
        tokens=len(_TOKEN.findall(answer)) if tokens is None else tokens,
        headers=len(_HEADER.findall(prose)),
        lists=len(_LIST.findall(prose)),
        bold=len(_BOLD.findall(prose)),
    )


def style_difference(own: Style, other: Style) -> dict[str, float]:
    """How an answer's style differs from its opponent's, per feature of `STYLE`; 0 where they are alike.

    The length's is (t - t') / (t + t'), from -1 to 1. The others' is (d - d') / (d + d' + 1) of the densities
    d = count / (tokens + 1). (Arena-Hard's, before it scales them over the whole table.)

    Args:
        own: The answer's.
        other: The opponent's.
    """
    tokens = own.tokens + other.tokens
    found = {"length": (own.tokens - other.tokens) / tokens if tokens else 0.0}
    for name, count, opposite in zip(STYLE[1:], own[1:], other[1:], strict=True):
        density, against = count / (own.tokens + 1), opposite / (other.tokens + 1)
        found[name] = (density - against) / (density + against + 1)
    return found
