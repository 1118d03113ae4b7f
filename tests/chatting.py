"""What the tests of the chat client ask, and answer."""

import os
from pathlib import Path

from hf_icon2 import ChatRequest

KEY = "sk-this-is-a-secret"
TESTS = Path(__file__).parent
OWN_TREE = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
"""The environment of programs that import what is tested here."""


def asked(text: str, **settings: object) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **settings)


def echo(payload: dict) -> str:
    return "answer to " + payload["messages"][-1]["content"]


def texts(outcomes: list) -> list[str | None]:
    """Replies, None for failures."""
    return [getattr(outcome, "text", None) for outcome in outcomes]
