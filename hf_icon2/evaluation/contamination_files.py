"""Rows of a file, a folder or a dataset on the Hub, streamed: nothing is copied to a cache, and memory stays small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import load_dataset

_KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
_PACKED = (".gz", ".zst", ".xz", ".bz2")


def stream_rows(source: str, *, split: str | None = None) -> Any:  # noqa: ANN401
    """Rows as a `datasets.IterableDataset`.

    Args:
        source: A file (JSON lines, JSON, Parquet, CSV, text; also packed with gzip, zstd, xz or bzip2), a folder that
            `datasets` reads, such as one of `save_pairs` or the pairs of a run, or an id on the Hub.
        split: Of a folder or Hub dataset; None takes `train`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is of another kind.
    """
    path = Path(source)
    if path.is_file():
        kind = _KINDS.get(next((end for end in reversed(path.suffixes) if end not in _PACKED), ""))
        if kind is None:
            raise ValueError(f"{path} is of no known kind; allowed: {', '.join(_KINDS)}")
        options: dict[str, Any] = {"sep": "\t"} if ".tsv" in path.suffixes else {}
        return load_dataset(kind, data_files=str(path), split="train", streaming=True, **options)
    if path.suffix in _KINDS:
        raise FileNotFoundError(f"there is no file {path}")
    return load_dataset(source, split=split or "train", streaming=True)
