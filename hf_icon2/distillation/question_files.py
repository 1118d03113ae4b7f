"""Questions from a file or from the Hub, read by their task."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_icon2.distillation.reasoning.reading import read_anli, read_cqa, read_gsm8k, read_svamp, read_text
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.storage import read_json, read_json_lines

READERS: Mapping[str, Callable[[Iterable[Mapping[str, Any]]], list[Question]]] = {
    "svamp": read_svamp,
    "gsm8k": read_gsm8k,
    "cqa": read_cqa,
    "anli": read_anli,
    "text": read_text,
}
_LARGEST = 2**30  # bytes of a file


def read_questions(
    source: str,
    task: str,
    *,
    subset: str | None = None,
    part: str = "train",
    number: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Reads questions, and draws some of them.

    Args:
        source: File of JSON lines or of one JSON list, or id of a dataset on the Hub.
        task: How its rows are read: svamp, gsm8k, cqa, anli, or text for any others.
        subset: Configuration of a dataset on the Hub, where it has several.
        part: Split of a dataset on the Hub.
        number: How many; all where it is None or there are not as many.
        seed: Of the draw.

    Raises:
        OSError: If there is no such file or dataset.
        ValueError: If a row cannot be read.
    """
    found = READERS[task](_rows(source, subset, part))
    if number is None or number >= len(found):
        return found
    return random.Random(seed).sample(found, number)


def _dataset(source: str, subset: str | None, part: str) -> Iterable[Mapping[str, Any]]:
    if Path(source).is_file():
        raise ValueError(f"{source} is neither .jsonl nor .json; write its rows as JSON lines")
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return load_dataset(source, subset, split=part)  # type: ignore[no-any-return]
    except DatasetGenerationError as error:
        raise ValueError(f"the rows of {source} cannot be read: {error.__cause__ or error}") from error


def _rows(source: str, subset: str | None, part: str) -> Iterable[Mapping[str, Any]]:
    path = Path(source)
    if path.suffix not in (".jsonl", ".json"):
        return _dataset(source, subset, part)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with questions")
    rows: list[Mapping[str, Any]] = (
        read_json_lines(path) if path.suffix == ".jsonl" else read_json(path, _LARGEST)
    )
    return rows
