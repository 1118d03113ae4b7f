"""The files of one cycle of CycleAlign. Each is written whole and never again, so that a run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_icon2.distillation.demonstrations import DemonstrationPool
from hf_icon2.storage import read_json, read_json_lines, write_atomic, write_json_lines

Row = dict[str, Any]


@dataclass(frozen=True)
class CycleState:
    """The folder of a cycle, in the order in which it fills.

    `candidates.jsonl`: per instruction K responses, with the student's mean log-probability and tokens of each.
    `rankings.jsonl`: per instruction the black box's scores, or the reason why there are none. It is written with
    what is known whenever the black box stops, and is whole when it has a row for every instruction.
    `dropped.jsonl`: of these the instructions without scores, with the reasons, for who looks for them.
    `demonstrations.json`: what the black box is shown in the next cycle.
    `model`: the student after the cycle.
    `figures.json`: the cycle in figures; the last one, so that it makes the cycle done.
    """

    path: Path

    @property
    def model(self) -> Path:
        """Folder of the student after the cycle."""
        return self.path / "model"

    @property
    def candidates(self) -> list[Row] | None:
        """Rows of `id`, `prompt`, `responses`, `mean_log_probs` and `tokens`; None where they are not drawn yet."""
        return self._rows("candidates.jsonl")

    @property
    def rankings(self) -> list[Row] | None:
        """Rows of `id`, `scores`, `reason`; None where nothing is ranked yet."""
        return self._rows("rankings.jsonl")

    @property
    def usage(self) -> Row | None:
        """What the black box has been asked for this cycle; None where it does not say."""
        found: Row | None = self._read("usage.json")
        return found

    @property
    def pool(self) -> DemonstrationPool | None:
        """Demonstrations after the cycle; None where they are not updated yet."""
        data = self._read("demonstrations.json")
        return None if data is None else DemonstrationPool.from_dict(data)

    @property
    def figures(self) -> Row | None:
        """The cycle in figures; None where it is not done."""
        found: Row | None = self._read("figures.json")
        return found

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Writes `name`.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_lines(self.path / f"{name}.jsonl", rows)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Writes `name`.json."""
        write_atomic(self.path / f"{name}.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def _rows(self, name: str) -> list[Row] | None:
        path = self.path / name
        return read_json_lines(path) if path.is_file() else None

    def _read(self, name: str) -> Any:  # noqa: ANN401
        path = self.path / name
        return read_json(path) if path.is_file() else None
