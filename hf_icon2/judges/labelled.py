"""Pairs of answers of which the better is known, from rows with the usual columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from hf_icon2.prompts import Instruction, answer_text

_QUESTION = ("prompt", "question", "instruction", "input")
_FIRST = ("first", "output_1", "answer_a", "response_a")
_SECOND = ("second", "output_2", "answer_b", "response_b")
_LABELS: dict[Any, Literal["first", "second"]] = {
    1: "first",
    2: "second",
    "1": "first",
    "2": "second",
    "first": "first",
    "second": "second",
}


class LabelledPair(NamedTuple):
    """Two answers to a question, and which of them is better."""

    question: Instruction
    first: str
    second: str
    better: Literal["first", "second"]


def labelled_pairs(rows: Iterable[Mapping[str, Any]]) -> list[LabelledPair]:
    """Reads rows of prompt, chosen and rejected (TRL), or of question, first, second and label.

    Chosen answers come first here; that favours no seat, because judges are asked in both orders.

    Args:
        rows: Mappings. Where chosen and rejected are whole conversations, the prompt is what they begin with in
            common. A label is 1 or 2, or first or second. The columns of LLMBar (input,
            output_1, output_2) are known too.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are no rows, or a row lacks a column or has another label.
    """
    pairs = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"labelled pairs are rows with named columns, got {type(row).__name__}; of a DatasetDict pass one split"
            )
        try:
            pairs.append(_preference(row) if "chosen" in row else _labelled(row))
        except (KeyError, TypeError, ValueError) as error:
            said = error.args[0] if error.args else error
            raise ValueError(f"row {number} of the labelled pairs cannot be used: {said}") from error
    if not pairs:
        raise ValueError("there are no labelled pairs; give rows of prompt, chosen and rejected")
    return pairs


def _preference(row: Mapping[str, Any]) -> LabelledPair:
    chosen, rejected = row["chosen"], _column(row, ("rejected",))
    if "prompt" in row and not _begins_with_prompt(chosen):
        return LabelledPair(_question(row["prompt"]), answer_text(chosen), answer_text(rejected), "first")
    if isinstance(chosen, str) or not isinstance(rejected, list):
        raise ValueError("it has texts in chosen and rejected but no prompt; split the prompt off")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return LabelledPair(
        _question(list(chosen[:shared])),
        answer_text(chosen[shared:]),
        answer_text(rejected[shared:]),
        "first",
    )


def _begins_with_prompt(chosen: Any) -> bool:  # noqa: ANN401
    """Whether it is a whole conversation, as in UltraFeedback, whose rows have the prompt's text besides."""
    return isinstance(chosen, list) and len(chosen) > 1 and chosen[0].get("role") != "assistant"


def _labelled(row: Mapping[str, Any]) -> LabelledPair:
    label = _column(row, ("label",))
    if isinstance(label, bool) or label not in _LABELS:
        raise ValueError(f"its label is {label!r}; allowed: 1 or 2, or first or second")
    return LabelledPair(
        _question(_column(row, _QUESTION)),
        answer_text(_column(row, _FIRST)),
        answer_text(_column(row, _SECOND)),
        _LABELS[label],
    )


def _question(value: Any) -> Instruction:  # noqa: ANN401
    if not isinstance(value, (str, list)) or not value:
        raise ValueError(f"its prompt is {value!r}; allowed: text, or a conversation that ends with the user")
    return value


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:  # noqa: ANN401
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(
        f"it has no {' or '.join(names)}; it has {', '.join(row)}. Allowed are the columns prompt, chosen and "
        "rejected, or question, first, second and label"
    )
