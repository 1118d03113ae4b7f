"""The report's sample of answers, before training and after."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.pipeline.markdown import cell, table
from hf_icon2.pipeline.rounds import round_folders
from hf_icon2.prompts import user_texts
from hf_icon2.recipe import TOY
from hf_icon2.storage import read_json_lines

SAMPLES = {"fixed": 4, "broken": 3, "still wrong": 2, "still right": 1}
"""How many answers of each kind are shown; what there is less of is not made up for."""


def answers_before_and_after(folder: RunFolder, report: Figures) -> list[str]:
    """A seeded sample of answers before and after, by what became of them where that is known."""
    path = folder.path / "evaluation.jsonl"
    if not path.is_file():
        return []
    rows = _first_to_last(folder, read_json_lines(path))
    groups = _by_outcome(rows) if folder.recipe.model == TOY else {"": rows}
    generator = random.Random(report["seed"])
    cells = [
        [kind, *(cell(row[key]) for key in ("prompt", "before", "after"))]
        for kind, found in groups.items()
        for row in generator.sample(found, min(SAMPLES.get(kind, 6), len(found)))
    ]
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in groups.items() if kind)
    intro = f"Of {len(rows)} answers: {counts}. " if counts else ""
    return [
        "## Answers before and after",
        f"{intro}Drawn by chance with the run's seed, not picked; all are in [evaluation.jsonl](evaluation.jsonl).",
        table(["", "prompt", "before", "after"], cells),
    ]


def _first_to_last(folder: RunFolder, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last round's answers beside those from before the first round; all rounds are asked the same."""
    first = round_folders(folder)[0].path / "evaluation.jsonl"
    return [
        {**row, "before": earlier["before"]}
        for row, earlier in zip(rows, read_json_lines(first), strict=True)
    ]


def _by_outcome(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    from hf_icon2.toy.answers import grade

    names = {
        (False, True): "fixed",
        (True, False): "broken",
        (False, False): "still wrong",
        (True, True): "still right",
    }
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLES}
    for row in rows:
        question = user_texts(row["prompt"])[-1]
        right = tuple(bool(grade(question, row[when]).correct) for when in ("before", "after"))
        groups[names[right]].append(row)  # type: ignore[index]
    return groups
