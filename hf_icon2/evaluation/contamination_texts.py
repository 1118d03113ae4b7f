"""Which texts a row of data or a prompt of a benchmark holds, whatever its columns are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PROMPTS = ("prompt", "instruction", "question", "turns", "messages", "conversation", "text")


def row_texts(row: Any, columns: Sequence[str] | None = None) -> Iterator[str]:  # noqa: ANN401
    """All texts of a row: itself, or what its columns hold, message lists and other nested lists included.

    Args:
        row: Text, message list, or columns by name.
        columns: Columns that count; None counts all.

    Raises:
        ValueError: If a column is missing.
    """
    if columns is None or not isinstance(row, Mapping):
        yield from _texts(row)
        return
    for name in columns:
        if name not in row:
            raise ValueError(f"a row has no column {name!r}; it has {', '.join(map(str, row))}")
        yield from _texts(row[name])


def prompt_texts(prompt: Any, column: str | None = None) -> list[str]:  # noqa: ANN401
    """The texts of a prompt: those of its user turns.

    Args:
        prompt: Text, conversation, list of turns, or a row with one of these as prompt, instruction (and Alpaca's
            input), question, turns, messages, conversation or text.
        column: Name of the row's column, where it is another.

    Raises:
        ValueError: If a row has no such column.
    """
    if isinstance(prompt, Mapping):
        name = column or next((name for name in _PROMPTS if _holds_text(prompt.get(name))), None)
        if name is None or name not in prompt:
            wanted = column or ", ".join(_PROMPTS)
            raise ValueError(
                f"a prompt's row has none of the columns {wanted}; it has {', '.join(map(str, prompt))}. Say which "
                "column holds the prompt"
            )
        added = prompt.get("input") if name == "instruction" else None
        return [*prompt_texts(prompt[name]), *_texts(added)]
    if isinstance(prompt, (list, tuple)):
        asked = [
            turn for turn in prompt if not isinstance(turn, Mapping) or turn.get("role", "user") == "user"
        ]
        return list(_texts(asked))
    return list(_texts(prompt))


def _holds_text(value: Any) -> bool:  # noqa: ANN401
    return any(text.strip() for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        is_message = "content" in value and "role" in value
        for name, item in value.items():
            if not (is_message and name == "role"):
                yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "tolist"):  # lists are arrays in a dataset with the format "numpy"
        listed = value.tolist()
        yield from _texts(listed if isinstance(listed, list) else None)
