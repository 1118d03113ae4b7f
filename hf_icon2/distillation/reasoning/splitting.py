"""Splits made on questions, before there is more than one row of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from hf_icon2.distillation.reasoning.records import Question


class QuestionSplits(NamedTuple):
    """Questions to learn from, to choose by, and to measure with; no text is in two of them."""

    train: list[Question]
    validation: list[Question]
    test: list[Question]


def split_questions(
    questions: Iterable[Question], validation: float = 0.1, test: float = 0.0, seed: int = 0
) -> QuestionSplits:
    """Splits questions at random.

    Questions of the same text, whatever its case and white space, stay together, so that no copy is on both sides.
    Which text goes where follows from the texts and the seed, not from the order of the questions.

    Args:
        questions: Before any expansion to chains.
        validation: Share of the different texts, rounded, at least one; 0 for none.
        test: The same.
        seed: Of the split.

    Returns:
        The three, each in the order given.

    Raises:
        ValueError: If the shares are not allowed, or nothing is left to learn from.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(
            f"validation={validation} and test={test} are not allowed; give shares of 0 or more, together below 1"
        )
    questions = list(questions)
    texts = sorted({_plain(one.text) for one in questions}, key=lambda text: _draw(seed, text))
    sizes = [max(1, round(share * len(texts))) if share else 0 for share in (validation, test)]
    if sum(sizes) >= len(texts):
        raise ValueError(
            f"{len(texts)} different questions leave none to learn from beside {sizes[0]} for validation and "
            f"{sizes[1]} for test; give more questions or smaller shares"
        )
    held, measured = set(texts[: sizes[0]]), set(texts[sizes[0] : sum(sizes)])
    splits = QuestionSplits([], [], [])
    for one in questions:
        text = _plain(one.text)
        (splits.validation if text in held else splits.test if text in measured else splits.train).append(one)
    return splits


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _draw(seed: int, text: str) -> bytes:
    return hashlib.sha256(json.dumps([seed, text]).encode()).digest()
