"""One stage of Mind's Mirror: trained, resumed after any interruption, and its best checkpoint kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from hf_icon2.distillation.files import Row
from hf_icon2.distillation.mirror_recipe import Training
from hf_icon2.distillation.passes import load_student
from hf_icon2.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

Score = Callable[["PreTrainedModel", "PreTrainedTokenizerBase"], float | None]
"""How good a student is on validation questions; None where nothing can be said."""

_CURVE = [f"{mode}{name}loss" for mode in ("", "eval_") for name in ("", "label_", "rationale_")] + ["score"]


def train_stage(
    source: str,
    target: Path,
    train: Sequence[Row],
    validation: Sequence[Row],
    settings: Training,
    *,
    epochs: float,
    score: Score,
    seed: int,
    name: str,
    show_progress: bool,
) -> dict[str, Any]:
    """Trains a student on rows; an interrupted training goes on from its last checkpoint and ends the same.

    Args:
        source: Model id or path of the student as it is.
        target: Folder of the student that does best; checkpoints are beside it as long as the training lasts.
        train: Rows of `prompt`, `label` and `rationale`.
        validation: Rows of questions that are not trained on; their loss breaks ties of the score.
        settings: Of the recipe.
        epochs: Passes over the rows.
        score: By which the checkpoint is chosen.
        seed: Of the training.
        name: Title of the card.
        show_progress: Whether to show progress bars.

    Returns:
        `steps`, `best_step`, the `curve` of what was measured, and `left_out`, the rows that were too long.
    """
    from hf_icon2.trainers.adapters import lora_config
    from hf_icon2.trainers.checkpoints import resumable_checkpoint, save_merged
    from hf_icon2.trainers.minds_mirror import MindsMirrorTrainer
    from hf_icon2.trainers.minds_mirror_config import MindsMirrorConfig
    from hf_icon2.trainers.progress import QuietBar

    checkpoints = (target.parent / "training").resolve()  # the state names the best checkpoint by its path
    tokenizer = load_tokenizer(source)
    trainer = MindsMirrorTrainer(
        load_student(source, encoder_decoder=True),
        args=MindsMirrorConfig(**_arguments(settings, checkpoints, epochs, seed, show_progress)),
        train_dataset=_dataset(train),
        eval_dataset=_dataset(validation),
        processing_class=tokenizer,
        peft_config=lora_config(settings.lora_rank) if settings.lora_rank else None,
        callbacks=[_Scored(score, tokenizer)],
    )
    trainer.remove_callback(ProgressCallback if show_progress else PrinterCallback)
    if show_progress:
        trainer.add_callback(QuietBar)
    trainer.train(resume_from_checkpoint=resumable_checkpoint(checkpoints))
    save_merged(trainer, tokenizer, target, name)
    state = trainer.state
    return {
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "curve": _curve(state.log_history),
        "left_out": len(train) - len(cast(Dataset, trainer.train_dataset)),
    }


def _curve(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """What was measured at each step, once per step."""
    steps: dict[float, dict[str, float]] = {}
    for row in history:
        found = {name: row[name] for name in _CURVE if name in row}
        if found:
            steps.setdefault(row["step"], {"step": row["step"]}).update(found)
    return list(steps.values())


def remove_checkpoints(target: Path) -> None:
    """Removes what `train_stage` needed to go on, beside the folder of its student."""
    shutil.rmtree(target.parent / "training", ignore_errors=True)


class _Scored(TrainerCallback):
    """Adds the score to what is measured on validation; of equal scores the lower loss is better."""

    def __init__(self, score: Score, tokenizer: PreTrainedTokenizerBase) -> None:
        self.score, self.tokenizer = score, tokenizer

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Measures the student as it is."""
        metrics: dict[str, float] = kwargs["metrics"]
        score = self.score(kwargs["model"], self.tokenizer) or 0.0
        state.log_history.append({"step": state.global_step, "score": score})
        metrics["eval_score"] = score - 1e-6 * metrics["eval_loss"]


def _dataset(rows: Sequence[Row]) -> Dataset:
    return Dataset.from_list([{name: row[name] for name in ("prompt", "label", "rationale")} for row in rows])


def _arguments(
    settings: Training, folder: Path, epochs: float, seed: int, show_progress: bool
) -> dict[str, Any]:
    every = 1 / settings.measurements  # below 1, and so a share of all steps
    return {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "max_prompt_length": settings.max_prompt_length,
        "max_target_length": settings.max_target_length,
        "alpha": settings.alpha,
        "label_prefix": settings.label_prefix,
        "rationale_prefix": settings.rationale_prefix,
        "seed": seed,
        "report_to": "none",
        "logging_steps": every,  # what is averaged between two logs is not in a checkpoint
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_score",
        "greater_is_better": True,
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": not show_progress,
    }
