"""The end of a run: `report.json` for programs, `report.md` with pictures for people. Reads only the run's folder."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.pipeline.evaluation import BEHAVIOURS
from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.pipeline.pictures import draw_pictures
from hf_icon2.pipeline.report_page import render_page
from hf_icon2.pipeline.stages import STAGES
from hf_icon2.storage import write_atomic

WHEN = ("before", "after", "system_prompt_ceiling")
LIBRARIES = ("hf_icon2", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "safetensors")


def write_report(folder: RunFolder) -> Path:
    """Writes `report.json`, `report.md` and `pictures/` into the folder of a finished run.

    Without matplotlib the report is written without pictures and says what to install.

    Returns:
        Path of `report.md`.

    Raises:
        ValueError: If a stage is not done yet.
    """
    records = _records(folder)
    report = report_figures(folder, records)
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
