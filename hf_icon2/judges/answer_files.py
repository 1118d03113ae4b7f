"""Files of answers, one answer to a prompt per row, and which rows of two of them belong together."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hf_icon2.prompts import Instruction, answer_text, as_messages
from hf_icon2.storage import read_json_lines, shortened

_IDS = ("id", "prompt_id", "question_id", "instruction_id", "uid")
_PROMPTS = ("prompt", "instruction", "question")
_ANSWERS = ("answer", "output", "response", "completion")
_CONVERSATIONS = ("messages", "conversation")

Join = Literal["auto", "id", "prompt"]


class Answer(NamedTuple):
    """One row of a file of answers; `name` is its id, if it has one."""

    name: str | None
    prompt: Instruction
    text: str


class Match(NamedTuple):
    """Two answers to one prompt; `name` is their id, or the prompt's text."""

    name: str
    prompt: Instruction
    first: str
    second: str


class Matches(NamedTuple):
    """Rows that two files have in common, and how many of each have no partner."""

    rows: list[Match]
    only_first: int
    only_second: int


def read_answers(path: Path, column: str | None = None) -> list[Answer]:
    """Reads a file of JSON lines, or one JSON list, as the files of alpaca_eval are.

    A row is a prompt (prompt, instruction or question; text or messages; an Alpaca `input` is added below the
    instruction) and an answer (answer, output, response or completion), or a conversation (messages) that ends with
    the answer. It may have an id. Answers may be nested as in the files of Arena-Hard.

    Args:
        path: The file.
        column: Name of the answers' column, where it is another.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON, is empty, or a row lacks a prompt or an answer.
    """
    rows = read_rows(path)
    answers = []
    for number, row in enumerate(rows, 1):
        try:
            answers.append(_answer(row, column))
            json.dumps(answers[-1], ensure_ascii=False).encode()  # half of a surrogate pair could not be sent
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"row {number} of {path} cannot be used: {error}") from error
    if not answers:
        raise ValueError(f"{path} holds no answers; give rows of prompt and answer")
    return answers


def matched(first: Sequence[Answer], second: Sequence[Answer], join: Join = "auto") -> Matches:
    """Joins two files by id where all their rows have one, else by the prompt.

    Answers to a prompt that a file has several times are joined in their order.

    Args:
        first: Rows of one file.
        second: Rows of the other.
        join: "id" or "prompt" to have it one way.

    Raises:
        ValueError: If an id stands twice in a file, rows with the same id ask different things, or no row has a
            partner.
    """
    by_id = all(row.name is not None for row in (*first, *second)) if join == "auto" else join == "id"
    what = "id" if by_id else "prompt"
    if by_id:
        one, other = _by_id(first, "first"), _by_id(second, "second")
    else:
        one, other = _by_prompt(first), _by_prompt(second)
    shared = [key for key in one if key in other]
    if not shared:
        hint = "; try to join by prompt" if by_id else "; give both files the same prompts, or ids"
        raise ValueError(f"no {what} is in both files{hint}")
    for key in shared:
        if _prompt_key(one[key].prompt) != _prompt_key(other[key].prompt):
            raise ValueError(
                f"the id {key[0]!r} belongs to different prompts: {shortened(one[key].prompt)} and "
                f"{shortened(other[key].prompt)}; join by prompt, or give ids that agree"
            )
    rows = [Match(key[0], one[key].prompt, one[key].text, other[key].text) for key in shared]
    return Matches(rows, len(one) - len(rows), len(other) - len(rows))


def read_rows(path: Path) -> list[Any]:
    """The rows of a file of JSON lines, or of one JSON list.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes().removeprefix(BOM_UTF8)
    if not data.lstrip().startswith(b"["):
        return read_json_lines(path)
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); write the file again") from error
    return list(rows)


def _answer(row: Mapping[str, Any], column: str | None) -> Answer:
    if not isinstance(row, Mapping):
        raise ValueError(f"it is {shortened(row)}, not an object of prompt and answer")
    name = row_id(row)
    turns = next((row[key] for key in _CONVERSATIONS if row.get(key)), None)
    if turns is not None and column is None:
        return Answer(name, _checked(list(turns[:-1])), answer_text([_unnested(turns[-1])]))
    prompt = row_prompt(row)
    answer = _only_turn(row) if column is None else None
    if answer is None:
        answer = _column(row, (column,) if column else _ANSWERS, "answer")
    if not isinstance(answer, str) and not _are_messages(answer):
        raise ValueError(
            f"its answer is {shortened(answer)}; allowed: text, or a list of one assistant message"
        )
    return Answer(name, prompt, answer_text(answer))


def row_id(row: Mapping[str, Any]) -> str | None:
    """Id of a row, if it has one."""
    return next((str(row[key]) for key in _IDS if row.get(key) is not None), None)


def row_prompt(row: Mapping[str, Any]) -> Instruction:
    """Prompt of a row, with an Alpaca `input` below its instruction.

    Raises:
        ValueError: If it has none, or an empty one.
    """
    prompt = _column(row, _PROMPTS, "prompt")
    if row.get("input") and prompt is row.get("instruction"):
        prompt = f"{prompt}\n\n{row['input']}"
    return _checked(prompt)


def _unnested(turn: Any) -> Any:  # noqa: ANN401
    """The message with its text in its place: Arena-Hard 2 keeps it below `answer`, beside what a model thought."""
    content = turn.get("content")
    return {**turn, "content": content["answer"]} if isinstance(content, Mapping) else turn


def _only_turn(row: Mapping[str, Any]) -> str | None:
    """The answer of a row of Arena-Hard 0.1; None for other rows, and where there are several turns."""
    choices = row.get("choices")
    turns: list[Any] = choices[0]["turns"] if choices else []
    return turns[0]["content"] if len(turns) == 1 and isinstance(turns[0], Mapping) else None


def _are_messages(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)


def _column(row: Mapping[str, Any], names: Sequence[str], what: str) -> Any:  # noqa: ANN401
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(f"it has no {what} ({', '.join(names)}); it has {', '.join(row)}")


def _checked(prompt: Instruction) -> Instruction:
    as_messages(prompt)
    return prompt


def _by_id(rows: Sequence[Answer], which: str) -> dict[tuple[str, int], Answer]:
    found: dict[tuple[str, int], Answer] = {}
    for number, row in enumerate(rows, 1):
        if row.name is None:
            raise ValueError(f"row {number} of the {which} file has no id; join by prompt")
        if (row.name, 0) in found:
            raise ValueError(
                f"the id {shortened(row.name)} stands twice in the {which} file, the second time in row {number}; keep "
                "one answer to each, or join by prompt"
            )
        found[row.name, 0] = row
    return found


def _by_prompt(rows: Sequence[Answer]) -> dict[tuple[str, int], Answer]:
    """Rows by their prompt and by how many there were with it before."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        key = _prompt_key(row.prompt)
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def _prompt_key(prompt: Instruction) -> str:
    """The prompt's text, the same whether it is text or one message."""
    turns = as_messages(prompt)
    if len(turns) == 1:
        return turns[0]["content"]
    return json.dumps([[turn["role"], turn["content"]] for turn in turns], ensure_ascii=False)
