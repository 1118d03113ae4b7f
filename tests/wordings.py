"""Texts for tests of what teachers are asked and reply: sound replies, and texts that a prompt must quote."""

import random


def chain_reply(rationale: str, label: str) -> str:
    """A chain of thought as a teacher is asked to write it."""
    return f"{rationale}\nThe answer is {label}."


def evaluation_reply(text: str, verdict: str) -> str:
    """An evaluation as a teacher is asked to write it."""
    return f"{text}\n\nEvaluation result: the given answer is {verdict}."


def tricky_text(rng: random.Random, layout: tuple[str, ...]) -> str:
    """A text with every sort of line break, and with lines of the layout of the prompt that quotes it."""
    pieces = ["a", " ", "\n", "\r\n", "\x85", "\u2028", "| ", *layout, "\n\n", "é"]
    return "x" + "".join(rng.choices(pieces, k=rng.randint(0, 12)))


def as_quoted(text: str) -> str:
    """What a reader of the prompt has of a text: its lines, whatever broke them."""
    return "\n".join(text.splitlines())
