"""Chance that follows from what it decides about."""

from __future__ import annotations

from hashlib import sha256
from json import dumps
from random import Random


def draw(*parts: object) -> Random:
    """A generator that follows from JSON values; the same values, the same draws, on any machine."""
    return Random(sha256(dumps(parts).encode()).digest())
