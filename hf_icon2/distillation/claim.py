"""A run's folder belongs to one recipe."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hf_icon2.settings import differences
from hf_icon2.storage import read_json, write_atomic


def claim_folder(folder: Path, recipe: Mapping[str, Any], *, begun: bool, free: Collection[str] = ()) -> None:
    """Keeps a run's recipe in its folder; where the run has begun, another one is refused.

    Args:
        folder: Of the run; made if missing.
        recipe: Plain data.
        begun: Whether anything depends on the recipe yet.
        free: Settings that may change nevertheless, by name or by name of their section.

    Raises:
        ValueError: If the folder holds a run with another recipe, naming what differs.
    """
    record = folder / "recipe.json"
    if record.is_file():
        kept = read_json(record)
        if not kept.keys() <= recipe.keys():
            raise ValueError(
                f"{record} is the recipe of another command or method; give another output folder"
            )
        names = [name for name in differences(kept, recipe) if not _covers(free, name)]
        if begun and names:
            raise ValueError(
                f"{folder} holds a run with another recipe (see {', '.join(names)}); give another output folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(record, json.dumps(recipe, indent=2) + "\n")


def _covers(free: Collection[str], name: str) -> bool:
    return name in free or name.partition(".")[0] in free
