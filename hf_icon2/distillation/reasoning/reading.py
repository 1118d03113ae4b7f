"""Readers of the data sets of Mind's Mirror, and of any others: rows become questions.

Each takes any rows with named columns: dicts read from a file, or a split of `datasets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase
from typing import Any

from hf_icon2.distillation.reasoning.answers import CLASSES, written_answer
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.storage import shortened

Row = Mapping[str, Any]


def read_svamp(rows: Iterable[Row]) -> list[Question]:
    """Questions of SVAMP; the answer is the equation, as for the authors.

    Args:
        rows: With `ID`, `Body`, `Question` and `Equation`.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are none, or one has another form, naming it.
    """
    return _questions("SVAMP", rows, _svamp)


def read_gsm8k(rows: Iterable[Row]) -> list[Question]:
    """Questions of GSM8K; the answer is the number after `####`, written without commas.

    Args:
        rows: With `question` and `answer`; their ids are counted from 0, unless there is an `id`.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are none, or one has another form, naming it.
    """
    return _questions("GSM8K", rows, _gsm8k)


def read_cqa(rows: Iterable[Row]) -> list[Question]:
    """Questions of CommonsenseQA; the text lists the choices with letters, as for the authors; the answer is a choice.

    Args:
        rows: With `question`, `choices` and `answer` as in cos_e v1.11, or `choices` of `label` and `text` and an
            `answerKey` as in commonsense_qa. An empty answer is an unknown one.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are none, or one has another form, naming it.
    """
    return _questions("CQA", rows, _cqa)


def read_anli(rows: Iterable[Row]) -> list[Question]:
    """Questions of ANLI; the text has premise and hypothesis on two lines, where the authors put an end-of-text token.

    Args:
        rows: With `premise`, `hypothesis` and `label`, a class or its number; -1 is an unknown one.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are none, or one has another form, naming it.
    """
    return _questions("ANLI", rows, _anli)


def read_text(rows: Iterable[Row]) -> list[Question]:
    """Questions of any other data; answers are compared as text, whatever their case and white space.

    Args:
        rows: With `question` and `answer`, a text or a whole number; None or empty if it is unknown. Their ids are
            counted from 0, unless there is an `id`.

    Raises:
        TypeError: If rows are no mappings.
        ValueError: If there are none, or one has another form, naming it.
    """
    return _questions("questions", rows, _free)


def _questions(name: str, rows: Iterable[Row], read: Callable[[Row, str], Question]) -> list[Question]:
    if isinstance(rows, (Mapping, str)):
        raise TypeError(
            f"{name} is read from a list of rows, got {type(rows).__name__}; read a file before, of a DatasetDict "
            "pass one split"
        )
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} of {name} has no named columns but is {shortened(row)}")
        try:
            found.append(read(row, f"{name.lower()}-{number}"))
        except ValueError as error:
            raise ValueError(f"row {number} of {name} cannot be used: {error}") from None
    if not found:
        raise ValueError(f"there are no rows of {name}")
    return found


def _svamp(row: Row, _default: str) -> Question:
    equation = written_answer("svamp", _text(row, "Equation"))
    return Question(
        _text(row, "ID"), f"{_text(row, 'Body')}\n{_text(row, 'Question')}", equation, task="svamp"
    )


def _gsm8k(row: Row, default: str) -> Question:
    _, mark, number = _text(row, "answer").rpartition("####")
    if not mark:
        raise ValueError(f"its answer has no `####` before a number; it is {shortened(row['answer'])}")
    return Question(
        _key(row, "id", default), _text(row, "question"), written_answer("gsm8k", number), task="gsm8k"
    )


def _cqa(row: Row, default: str) -> Question:
    choices, answer = _choices(row)
    if answer and answer not in choices:
        raise ValueError(f"its answer {shortened(answer)} is none of its choices {shortened(list(choices))}")
    lines = (f"({letter}) {choice}" for letter, choice in zip(ascii_lowercase, choices, strict=False))
    text = "\n".join([_text(row, "question"), "Answer Choices:", *lines])
    return Question(_key(row, "id", default), text, answer or None, task="cqa", choices=choices)


def _choices(row: Row) -> tuple[tuple[str, ...], str | None]:
    """The choices, and the right one."""
    given = _column(row, "choices")
    if not isinstance(given, Mapping):
        return _texts(given), _column(row, "answer")
    texts, letters = _texts(given.get("text")), _texts(given.get("label"))
    key = _column(row, "answerKey")
    if key and key not in letters:
        raise ValueError(f"its answerKey {shortened(key)} is none of the labels {shortened(list(letters))}")
    return texts, texts[letters.index(key)] if key else None


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= len(ascii_lowercase):
        raise ValueError(f"its choices must be a list of 2 to 26 texts; they are {shortened(value)}")
    if not all(isinstance(one, str) and one.strip() for one in value) or len(set(value)) != len(value):
        raise ValueError(
            f"its choices must be different texts that are not blank; they are {shortened(value)}"
        )
    return tuple(value)


def _anli(row: Row, default: str) -> Question:
    label = _column(row, "label")
    if isinstance(label, bool) or label not in (None, -1, 0, 1, 2, *CLASSES):
        raise ValueError(
            f"its label is {shortened(label)}; allowed: 0, 1, 2, {', '.join(CLASSES)}; -1 if unknown"
        )
    if label is not None and not isinstance(label, str):
        label = None if label < 0 else CLASSES[int(label)]
    text = f"Premise: {_text(row, 'premise')}\nHypothesis: {_text(row, 'hypothesis')}"
    return Question(_key(row, "uid", default), text, label, task="anli")


def _free(row: Row, default: str) -> Question:
    answer = _column(row, "answer")
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, (str, int))):
        raise ValueError(
            f"its answer must be text or a whole number, or None if unknown; it is {shortened(answer)}"
        )
    said = "" if answer is None else str(answer).strip()
    written = written_answer("text", said) if said else None
    return Question(_key(row, "id", default), _text(row, "question"), written)


def _text(row: Row, name: str) -> str:
    value = _column(row, name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its {name} must be text that is not blank; it is {shortened(value)}")
    return value.strip()


def _key(row: Row, name: str, default: str) -> str:
    value = row.get(name)
    return default if value is None else str(value)


def _column(row: Row, name: str) -> Any:  # noqa: ANN401
    if name not in row:
        raise ValueError(f"it has no {name}; it has {', '.join(map(str, row))}")
    return row[name]
