"""Answers of each task: the one way in which they are written, and when two of them are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from string import ascii_lowercase

from hf_icon2.distillation.reasoning.arithmetic import evaluate, plain_signs
from hf_icon2.distillation.reasoning.records import Task
from hf_icon2.judges.chains import bare_answer

CLASSES = ("entailment", "neutral", "contradiction")
"""Of ANLI, in the order of its numbers."""

_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_LETTERED = re.compile(r"\A\(?[A-Za-z]\)\s*")
_LONGEST_NUMBER = 100  # digits


def written_answer(task: Task, text: str, choices: Sequence[str] = ()) -> str:
    """An answer in the one form of its task, in which students learn it.

    Args:
        task: An equation keeps its left side, without commas and currency signs (svamp); a number loses them, too,
            and its percent sign, and what GSM8K writes before it (gsm8k); a choice, named by its words or its
            letter, is written as among the choices (cqa), a class in small letters (anli).
        text: The answer, with or without the full stop of its sentence and with or without marks around it.
        choices: To choose from, for cqa; without them any text is an answer.

    Raises:
        ValueError: If the text is no answer of this task.
    """
    text = bare_answer(text)
    if task == "svamp":
        side = _THOUSANDS.sub("", plain_signs(text.partition("=")[0]).replace("$", "")).strip()
        evaluate(side)
        return side
    if task == "gsm8k":
        return _decimal(_number(text))
    if task == "cqa" and choices:
        return _choice(text, choices)
    if task == "cqa":
        text = bare_answer(_LETTERED.sub("", text, count=1))
    if task == "anli" and text.lower() not in CLASSES:
        raise ValueError(f"{text!r} is no class; allowed: {', '.join(CLASSES)}")
    if not any(map(str.isalnum, text)):
        raise ValueError("an answer without a letter or a digit says nothing")
    return text.lower() if task == "anli" else " ".join(text.split())


def answer_value(task: Task, text: str) -> str | Fraction | None:
    """What answers are compared by: the value of an equation or a number, else the text; None if it is no answer."""
    try:
        written = written_answer(task, text)
    except ValueError:
        return None
    return evaluate(written) if task in ("svamp", "gsm8k") else written.casefold()


def same_answer(task: Task, first: str, second: str) -> bool:
    """Whether two answers to one question are the same.

    Args:
        task: Equations are the same if their values are (svamp), as numbers (gsm8k); choices, classes and free text
            if their words are, whatever the case.
        first: An answer, written in any of the ways `written_answer` knows.
        second: Another. What is no answer of the task is the same as nothing.
    """
    value = answer_value(task, first)
    return value is not None and value == answer_value(task, second)


def _number(text: str) -> Fraction:
    said = plain_signs(text).removeprefix("####").strip().removesuffix("%").replace("$", "").strip()
    found = _NUMBER.fullmatch(said)
    if found is None or len(said) > _LONGEST_NUMBER or not any(map(str.isdigit, said)):
        raise ValueError(f"{text!r} is no number")
    return Fraction(said.replace(",", ""))


def _decimal(value: Fraction) -> str:
    """Exact, since it was read from a decimal number."""
    if value.denominator == 1:
        return str(value.numerator)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = f"{abs(value) * 10**places}".rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def _choice(text: str, choices: Sequence[str]) -> str:
    """The choice that is named by its words, its letter, or both if they agree."""
    said = _plain(text)
    for letter, choice in zip(ascii_lowercase, choices, strict=False):
        words = _plain(choice)
        marks = (f"({letter})", f"{letter})")
        if said in {words, *marks, *(f"{mark} {words}" for mark in (*marks, f"{letter}.", f"{letter}:"))}:
            return choice
    raise ValueError(f"{text!r} is none of the choices {', '.join(choices)}")


def _plain(text: str) -> str:
    return " ".join(bare_answer(text).split()).casefold()
