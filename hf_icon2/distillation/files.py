"""The files of a run's folder: each is written whole, and a missing one is None, so that a run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_icon2.storage import read_json, read_json_lines, write_atomic, write_json_lines

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """A folder with files of JSON and of JSON lines."""

    path: Path

    def rows(self, name: str) -> list[Row] | None:
        """The rows of `name`.jsonl; None where it is not there yet."""
        path = self.path / f"{name}.jsonl"
        return read_json_lines(path) if path.is_file() else None

    def read(self, name: str) -> Row | None:
        """The content of `name`.json; None where it is not there yet."""
        path = self.path / f"{name}.json"
        found: Row | None = read_json(path) if path.is_file() else None
        return found

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Writes `name`.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_lines(self.path / f"{name}.jsonl", rows)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Writes `name`.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / f"{name}.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
