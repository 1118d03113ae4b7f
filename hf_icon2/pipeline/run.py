"""Runs the stages of a recipe in a folder, from where an earlier run left off."""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path

from hf_icon2.pipeline.evaluation import check_context
from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.rounds import rounds_of
from hf_icon2.pipeline.stages import STAGES, Run
from hf_icon2.pipeline.subject import Subject
from hf_icon2.recipe import Recipe

logger = logging.getLogger(__name__)


def run_recipe(recipe: Recipe, output: str | os.PathLike[str], *, until: str | None = None) -> Path:
    """Runs a recipe: extract, synthesize, filter, tune, pairs, train, evaluate, and the report.

    Finished stages are not run again, so an interrupted run is taken up by calling this again. With several rounds
    the stages are run again from the trained model; see `rounds`.

    Args:
        recipe: What to do.
        output: Folder of the run; new, empty, or of an earlier run of the same recipe.
        until: Last stage to run, in the first round that is not finished; all, and the report, by default.

    Returns:
        The report, or the folder of the round if the run ends earlier.

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
        _check_questions(Subject(recipe))
        return _run_rounds(folder, until)


def _check_questions(subject: Subject) -> None:
    """Refuses before hours of work what the last stage would refuse."""
    turns = subject.recipe.evaluation.turns
    if turns > 1 and subject.held_out:
        check_context(subject.tokenizer, subject.held_out, turns)


def _run_rounds(folder: RunFolder, until: str | None) -> Path:
    last = folder.recipe.rounds
    for number, run in enumerate(rounds_of(folder), start=1):
        if last > 1:
            logger.info("round %d of %d", number, last)
        in_progress = number == last or any(run.folder.figures(name) is None for name in STAGES)
        _run_stages(run, until if in_progress else None)
        if until is not None and in_progress:
            return run.folder.path
    from hf_icon2.pipeline.report import write_report

    return write_report(folder)


def _run_stages(run: Run, until: str | None) -> None:
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
            return
