"""The output folder of a run: what is done, with which recipe, and rows that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from datasets import Dataset, Features

from hf_icon2.recipe import Recipe
from hf_icon2.settings import differences, read_settings
from hf_icon2.storage import locked, read_json_lines, write_atomic, write_json_lines

Figures = dict[str, Any]


class RunFolder:
    """A folder that belongs to one recipe. A stage is done when its record `stages/<name>.json` exists."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.recipe = recipe

    @classmethod
    def open(cls, path: str | os.PathLike[str], recipe: Recipe) -> RunFolder:
        """Makes the folder, or takes up a run of the same recipe.

        Raises:
            ValueError: If the folder was made with another recipe, or holds files that are not a run's.
        """
        folder = cls(Path(path), recipe)
        record = folder.path / "recipe.json"
        if not record.is_file():
            # a process killed before its first file was whole leaves only the beginning of that file
            if folder.path.exists() and any(
                not item.name.startswith(".recipe.json.") for item in folder.path.iterdir()
            ):
                raise ValueError(
                    f"{folder.path} holds files but no recipe.json, so it is not a run; choose an empty folder"
                )
            folder.path.mkdir(parents=True, exist_ok=True)
            write_atomic(record, json.dumps(recipe.to_dict(), indent=2) + "\n")
        earlier = _completed(read_settings(record), Recipe().to_dict())
        if changed := differences(earlier, recipe.to_dict()):
            told = "; ".join(
                f"{name} was {before!r}, is {after!r}" for name, (before, after) in changed.items()
            )
            raise ValueError(
                f"{folder.path} was made with another recipe: {told}. Choose another folder, or go back to the "
                f"recipe in {record}"
            )
        (folder.path / "stages").mkdir(exist_ok=True)
        return folder

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes out; see `storage.locked`."""
        return locked(self.path)

    def figures(self, stage: str) -> Figures | None:
        """What a finished stage recorded, None if it is not done."""
        record = self.path / "stages" / f"{stage}.json"
        return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None

    def finish(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Records a stage as done."""
        write_atomic(self.path / "stages" / f"{stage}.json", json.dumps(figures, indent=2) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows as JSON lines."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(target, rows)

    def read_rows(self, name: str, features: Features | None = None) -> Dataset:
        """The rows of `write_rows`, as a dataset."""
        return Dataset.from_list(read_json_lines(self.path / name), features=features)


def _completed(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with what it does not name: a folder keeps its recipe when a setting is added here."""
    return {
        **defaults,
        **{
            name: _completed(value, defaults[name])
            if isinstance(value, dict) and isinstance(defaults.get(name), dict)
            else value
            for name, value in data.items()
        },
    }
