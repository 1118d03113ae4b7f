"""What rounds of every method share: their rows, their seeds, and one training pass from folder to folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from hf_icon2.loading import load_model
from hf_icon2.storage import read_json_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_icon2.distillation.recipe import TrainingPass
    from hf_icon2.trainers.ranked import RankedTrainer
    from hf_icon2.trainers.ranked_config import RankedConfig


def round_seed(seed: int, number: int) -> int:
    """Seed of the samples of a round, counted from 1: other ones in every round."""
    return seed + 1_000_003 * (number - 1)


def rows_of(path: Path) -> Dataset | None:
    """The rows of a file of JSON lines; None where it is not there yet."""
    return Dataset.from_list(read_json_lines(path)) if path.is_file() else None


def pass_arguments(settings: TrainingPass, folder: Path, seed: int, show_progress: bool) -> dict[str, Any]:
    """Arguments of a `RankedConfig` for one pass that is not interrupted: a pass cut short begins anew."""
    return {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "max_length": settings.max_length,
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": not show_progress,
    }


def load_student(source: str, *, encoder_decoder: bool = False) -> PreTrainedModel:
    """A causal LM by id or path; an adapter is merged into its weights, of which it would let none be trained.

    Args:
        source: Model or adapter, id or path.
        encoder_decoder: Load models of the T5 family too, where the caller can use them.
    """
    student = load_model(source, encoder_decoder=encoder_decoder)
    if not getattr(student, "_hf_peft_config_loaded", False):
        return student
    from hf_icon2.trainers.adapters import load_merged

    merged = load_merged(source, encoder_decoder=student.config.is_encoder_decoder)
    merged.to(student.device)  # type: ignore[arg-type]
    merged.eval()
    return merged


def train_student(
    trainer: type[RankedTrainer],
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    config: RankedConfig,
    settings: TrainingPass,
    name: str,
) -> float:
    """One training pass; the student, its tokenizer and its card end in the output folder of `config`.

    Args:
        trainer: With which loss.
        source: Model id or path of the student as it is.
        tokenizer: Its tokenizer.
        rows: Rows of `prompt`, `responses` and `scores`.
        config: Of the trainer.
        settings: Of the recipe.
        name: Title of the card.

    Returns:
        The mean loss of the pass.
    """
    from hf_icon2.trainers.adapters import lora_config

    learner = trainer(
        load_student(source),
        args=config,
        train_dataset=rows.select_columns(["prompt", "responses", "scores"]),
        processing_class=tokenizer,
        peft_config=lora_config(settings.lora_rank) if settings.lora_rank else None,
    )
    result = learner.train()
    if settings.lora_rank:
        learner.model = learner.model.merge_and_unload()  # type: ignore[operator]
    learner.save_model(str(config.output_dir))
    learner.create_model_card(model_name=name)
    return float(result.training_loss)
