"""What a black box has been asked for, over all calls that made up a step."""

from __future__ import annotations

from typing import Any

_SPENT = ("requests", "prompt_tokens", "completion_tokens", "cost")

Spent = dict[str, Any]


def spent(chat: object) -> Spent | None:
    """What a client has used so far; None where none counts."""
    usage = getattr(chat, "usage", None)
    return None if usage is None else {name: getattr(usage, name) for name in _SPENT}


def added(kept: Spent | None, before: Spent | None, after: Spent | None) -> Spent | None:
    """What was spent between two looks, added to what is kept of earlier calls."""
    if before is None or after is None:
        return kept
    kept = kept or dict.fromkeys(_SPENT, 0)
    return {
        name: None if after[name] is None else (kept[name] or 0) + after[name] - (before[name] or 0)
        for name in _SPENT
    }
