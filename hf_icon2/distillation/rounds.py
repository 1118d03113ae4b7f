"""Preference-aligned distillation from prompts to a student: sample, score, train, and again with what was learned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.distillation.passes import load_student, pass_arguments, round_seed, rows_of, train_student
from hf_icon2.distillation.recipe import ROWS, DistillationRecipe
from hf_icon2.distillation.teacher import Judge, score_candidates
from hf_icon2.judges.wording import Ask, compare_prompt
from hf_icon2.loading import load_tokenizer
from hf_icon2.prompts import Instruction
from hf_icon2.steering.decoding import Sampling
from hf_icon2.storage import write_atomic, write_json_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MODEL, DONE = "model", "done"


def distil_preferences(
    student: str,
    prompts: Sequence[Instruction],
    output: Path,
    recipe: DistillationRecipe,
    *,
    teacher: PreTrainedModel | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    judge: Judge | None = None,
    ask: Ask = compare_prompt,
    show_progress: bool = True,
) -> Path:
    """Runs the rounds of PAD; scored rows and models of finished rounds are kept, so the same call goes on.

    Args:
        student: Model id or path.
        prompts: What the student answers.
        output: Folder; round k writes `round-k/scored.jsonl` and `round-k/model`.
        recipe: The settings; student, teacher and prompts are those given here.
        teacher: Scores the responses; see `score_candidates`.
        teacher_tokenizer: The teacher's.
        judge: Selects in the teacher's place.
        ask: Words the comparison.
        show_progress: Whether to show progress bars.

    Returns:
        Folder of the last student, with its tokenizer and card.
    """
    source = student
    for number in range(1, recipe.rounds + 1):
        folder = output / f"round-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DONE).is_file():
            logger.info("round %d of %d", number, recipe.rounds)
            tokenizer = load_tokenizer(source)
            rows = rows_of(folder / ROWS)
            if rows is None:
                drawn = _candidates(load_student(source), tokenizer, prompts, recipe, number, show_progress)
                rows = score_candidates(
                    drawn,
                    teacher,
                    teacher_tokenizer,
                    judge=judge,
                    ask=ask,
                    alpha=recipe.scoring.alpha,
                    system=recipe.scoring.system,
                    show_progress=show_progress,
                )
                write_json_lines(folder / ROWS, rows)
            _train(source, tokenizer, rows, folder, recipe, show_progress)
            write_atomic(folder / DONE, "")
        source = str(folder / MODEL)
    return Path(source)


def _candidates(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    recipe: DistillationRecipe,
    number: int,
    show_progress: bool,
) -> Dataset:
    settings = recipe.sampling
    return sample_candidates(
        student,
        tokenizer,
        prompts,
        samples=settings.samples,
        keep=settings.keep,
        sampling=Sampling(settings.max_new_tokens, settings.temperature, settings.top_p),
        seed=round_seed(recipe.seed, number),
        batch_size=settings.batch_size,
        show_progress=show_progress,
    )


def _train(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    folder: Path,
    recipe: DistillationRecipe,
    show_progress: bool,
) -> None:
    from hf_icon2.trainers.pad import PADConfig, PADTrainer

    settings = recipe.training
    config = PADConfig(
        loss_type=settings.loss_type,
        student_temperature=settings.student_temperature,
        teacher_temperature=settings.teacher_temperature,
        group_size=settings.group_size,
        **pass_arguments(settings, folder / MODEL, recipe.seed, show_progress),
    )
    train_student(PADTrainer, source, tokenizer, rows, config, settings, f"{Path(recipe.student).name}-pad")
