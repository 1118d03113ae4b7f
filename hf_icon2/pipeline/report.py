"""The end of a run: `report.json` for programs, `report.md` with pictures for people. Reads only the run's folder."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.pipeline.evaluation import BEHAVIOURS
from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.pipeline.pictures import draw_pictures
from hf_icon2.pipeline.report_page import render_page
from hf_icon2.pipeline.rounds import round_folders
from hf_icon2.pipeline.stages import STAGES
from hf_icon2.recipe import Recipe
from hf_icon2.storage import write_atomic

WHEN = ("before", "after", "system_prompt_ceiling")
IN_ROUNDS = ("seed", "accuracy", "rewards", "instructions", "pairs", "strengths", "training", "seconds")
LIBRARIES = ("hf_icon2", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "safetensors")


def write_report(folder: RunFolder) -> Path:
    """Writes `report.json`, `report.md` and `pictures/` into the folder of a finished run.

    Without matplotlib the report is written without pictures and says what to install.

    Returns:
        Path of `report.md`.

    Raises:
        ValueError: If a stage is not done yet.
    """
    reports = [report_figures(place, _records(place)) for place in round_folders(folder)]
    records, report = _records(folder), reports[-1]
    if len(reports) > 1:
        report = over_rounds(reports, folder.recipe)
    write_atomic(folder.path / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    pictures = draw_pictures(folder, records, report)
    return write_atomic(folder.path / "report.md", render_page(folder, records, report, pictures))


def report_figures(folder: RunFolder, records: dict[str, Figures]) -> Figures:
    """The objects of `report.json`; null where nothing is known, as is accuracy without a truth table."""
    recipe, pairs, training = folder.recipe, records["pairs"], records["train"]
    seconds = {name: record["seconds"] for name, record in records.items()}
    evaluation = records["evaluate"]
    report: Figures = {
        "model": recipe.model,
        "seed": recipe.seed,
        "criteria": [criterion.name for criterion in recipe.criteria],
        "accuracy": _accuracy(evaluation["accuracy"]),
        "rewards": evaluation["rewards"],
        "instructions": {
            "sampled": records["synthesize"]["raw"],
            "raw": records["filter"]["raw"],
            "kept": records["filter"]["kept"],
            "per_criterion": records["filter"]["per_criterion"],
        },
        "pairs": {
            name: pairs[name] for name in ("generated", "kept", "decisive_right", "per_criterion", "flags")
        },
        "strengths": records["tune"]["strengths"],
        "training": {name: value for name, value in training.items() if name not in ("curve", "seconds")},
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        "warnings": _warnings(records),
        "provenance": {
            "recipe_sha256": recipe.fingerprint,
            "directions_sha256": DirectionVectors.from_pretrained(folder.path / "tuned").sha256,
            "versions": _versions(),
        },
    }
    return _without_nan(report)  # type: ignore[no-any-return]


def over_rounds(reports: Sequence[Figures], recipe: Recipe) -> Figures:
    """One report of several rounds, given in order, and of their recipe, whose seed is that of the first round.

    Accuracy and rewards span all rounds, from before the first to after the last; so do seconds and warnings.
    Everything else is the last round's. `rounds` holds what each round did.
    """
    first, last = reports[0], reports[-1]
    behaviours = {
        name: _spanning(first["accuracy"]["behaviours"][name], found)
        for name, found in last["accuracy"]["behaviours"].items()
    }
    return {
        **last,
        "seed": recipe.seed,
        "provenance": {**last["provenance"], "recipe_sha256": recipe.fingerprint},
        "accuracy": {**_spanning(first["accuracy"], last["accuracy"]), "behaviours": behaviours},
        "rewards": last["rewards"] and _spanning(first["rewards"], last["rewards"]),
        "seconds": {
            name: round(sum(report["seconds"][name] for report in reports), 2) for name in last["seconds"]
        },
        "warnings": [
            f"Round {number}: {text}"
            for number, report in enumerate(reports, start=1)
            for text in report["warnings"]
        ],
        "rounds": [{name: report[name] for name in IN_ROUNDS} for report in reports],
    }


def _spanning(first: Figures, last: Figures) -> Figures:
    """The last round's figures, but those of before training are the first round's."""
    return {**last, **{name: first[name] for name in ("before", "system_prompt_ceiling") if name in first}}


def _records(folder: RunFolder) -> dict[str, Figures]:
    """What every stage recorded."""
    found = {name: folder.figures(name) for name in STAGES}
    if missing := [name for name, record in found.items() if record is None]:
        raise ValueError(
            f"the run in {folder.path} is not finished, missing: {', '.join(missing)}; "
            f"go on with `hf-icon2 run --output {folder.path}`"
        )
    return {name: record for name, record in found.items() if record is not None}


def _accuracy(measured: Figures | None) -> Figures:
    """Shares of right answers, all behaviours together and one by one."""
    behaviours = (measured or {}).get("behaviours", {})
    return {
        **{when: (measured or {}).get(when) for when in WHEN},
        "behaviours": {
            name: {when: behaviours.get(name, {}).get(when) for when in WHEN}
            for name in dict.fromkeys((*BEHAVIOURS, *behaviours))
        },
        "prompts": (measured or {}).get("prompts"),
        "answers": (measured or {}).get("answers"),
    }


def _warnings(records: dict[str, Figures]) -> list[str]:
    """Sentences of the stages on what went wrong without stopping the run."""
    return [text for record in records.values() for text in record.get("warnings", [])]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # extras may be missing
    return found


def _without_nan(value: Any) -> Any:  # noqa: ANN401
    """JSON knows no NaN: null says that there was nothing to measure."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
