"""The value of an equation's side such as `( 10.0 - ( 6.0 + 3.0 ) )`, exactly and without running it as code."""

from __future__ import annotations

import re
from fractions import Fraction

_LONGEST = 200  # characters; it bounds the depth of the brackets, too
_TOKEN = re.compile(r"\s*((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|[-+*/()])")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


def plain_signs(text: str) -> str:
    """The text with the signs of a keyboard: `*` for a cross or a dot, `/` for a division sign, a plain minus."""
    return text.translate(_SIGNS)


def evaluate(text: str) -> Fraction:
    """The value of a term of numbers, + - * / and round brackets; the usual precedence holds.

    Args:
        text: Such as `(84 / 2)`, up to 200 characters.

    Raises:
        ValueError: For anything else, and for a division by zero.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"a term has at most {_LONGEST} characters, this one {len(text)}")
    tokens = _tokens(plain_signs(text).strip())
    value = _sum(tokens)
    if tokens:
        raise ValueError(f"{tokens[-1]!r} is not expected in {text!r}")
    return value


def _tokens(text: str) -> list[str]:
    """Reversed, so that the next one is popped from the end."""
    found: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"{text!r} is not made of numbers, + - * / and brackets")
        found.append(match[1])
        place = match.end()
    return found[::-1]


def _sum(tokens: list[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[-1] in "+-":
        value += _product(tokens) if tokens.pop() == "+" else -_product(tokens)
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _factor(tokens)
    while tokens and tokens[-1] in "*/":
        if tokens.pop() == "*":
            value *= _factor(tokens)
        elif (divisor := _factor(tokens)) == 0:
            raise ValueError("a term divides by zero")
        else:
            value /= divisor
    return value


def _factor(tokens: list[str]) -> Fraction:
    if not tokens:
        raise ValueError("a term ends where a number is expected")
    token = tokens.pop()
    if token in "+-":
        return _factor(tokens) if token == "+" else -_factor(tokens)
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop() != ")":
            raise ValueError("a bracket is not closed")
        return value
    if token in "*/)":
        raise ValueError(f"{token!r} stands where a number is expected")
    return Fraction(token)
