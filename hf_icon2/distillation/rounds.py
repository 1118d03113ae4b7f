"""Preference-aligned distillation from prompts to a student: sample, score, train, and again with what was learned."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.distillation.recipe import ROWS, DistillationRecipe, Training
from hf_icon2.distillation.teacher import Judge, score_candidates
from hf_icon2.judges.wording import Ask, compare_prompt
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.prompts import Instruction
from hf_icon2.steering.decoding import Sampling
from hf_icon2.storage import read_json_lines, write_atomic

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
            rows = _rows_of(folder / ROWS)
            if rows is None:
                drawn = _candidates(load_model(source), tokenizer, prompts, recipe, number, show_progress)
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
                write_atomic(folder / ROWS, _as_lines(rows))
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
        seed=recipe.seed + 1_000_003 * (number - 1),  # other samples in every round
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
    from hf_icon2.trainers.adapters import lora_config
    from hf_icon2.trainers.pad import PADTrainer

    settings = recipe.training
    trainer = PADTrainer(
        load_model(source),
        args=_config(settings, folder / MODEL, recipe.seed, show_progress),
        train_dataset=rows.select_columns(["prompt", "responses", "scores"]),
        processing_class=tokenizer,
        peft_config=lora_config(settings.lora_rank) if settings.lora_rank else None,
    )
    trainer.train()
    if settings.lora_rank:
        trainer.model = trainer.model.merge_and_unload()  # type: ignore[operator]
    trainer.save_model(str(folder / MODEL))
    trainer.create_model_card(model_name=f"{Path(recipe.student).name}-pad")


def _config(settings: Training, folder: Path, seed: int, show_progress: bool) -> Any:  # noqa: ANN401
    from hf_icon2.trainers.pad import PADConfig

    return PADConfig(
        str(folder),
        loss_type=settings.loss_type,
        student_temperature=settings.student_temperature,
        teacher_temperature=settings.teacher_temperature,
        group_size=settings.group_size,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=settings.max_length,
        seed=seed,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not show_progress,
    )


def _rows_of(path: Path) -> Dataset | None:
    return Dataset.from_list(read_json_lines(path)) if path.is_file() else None


def _as_lines(rows: Dataset) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
