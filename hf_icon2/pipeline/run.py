"""Runs the stages of a recipe in a folder, from where an earlier run left off."""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path

from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.stages import STAGES, Run
from hf_icon2.pipeline.subject import Subject
from hf_icon2.recipe import Recipe

logger = logging.getLogger(__name__)


def run_recipe(recipe: Recipe, output: str | os.PathLike[str], *, until: str | None = None) -> Path:
    """Runs a recipe: extract, synthesize, filter, tune, pairs, train, evaluate, and the report.

    Finished stages are not run again, so an interrupted run is taken up by calling this again.

    Args:
        recipe: What to do.
        output: Folder of the run; new, empty, or of an earlier run of the same recipe.
        until: Last stage to run; all, and the report, by default.

    Returns:
        The report, or the folder if the run ends earlier.

    Raises:
        ValueError: If the folder belongs to another recipe, or a stage cannot do its work.
    """
    if until is not None and until not in STAGES:
        raise ValueError(f"there is no stage {until!r}; stages are {', '.join(STAGES)}")
    if until in (None, "train", "evaluate") and find_spec("trl") is None:
        raise ImportError(
            "training needs trl, which is missing; run: pip install 'hf_icon2[train]'"
        )  # before hours of work
    folder = RunFolder.open(output, recipe)
    with folder.locked():
        return _run_stages(Run(folder, Subject(recipe)), until)


def _run_stages(run: Run, until: str | None) -> Path:
    folder = run.folder
    for number, (name, stage) in enumerate(STAGES.items(), start=1):
        if folder.figures(name) is not None:
            logger.info("[%d/%d] %s: done earlier", number, len(STAGES), name)
        else:
            logger.info("[%d/%d] %s", number, len(STAGES), name)
            started = time.perf_counter()
            figures = stage(run)
            folder.finish(name, {**figures, "seconds": round(time.perf_counter() - started, 2)})
        if name == until:
            return folder.path
    from hf_icon2.pipeline.report import write_report

    return write_report(folder)
