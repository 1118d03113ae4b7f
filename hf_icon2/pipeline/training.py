"""The training stage: DPO on a run's pairs, from a checkpoint if there is one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from safetensors import SafetensorError
from transformers import ProgressCallback

from hf_icon2.loading import load_model
from hf_icon2.pipeline.subject import Subject
from hf_icon2.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_dpo(recipe: Recipe, subject: Subject, pairs: Dataset, folder: Path) -> dict[str, Any]:
    """Trains on the pairs and saves model and tokenizer in `folder/model`; checkpoints go to `folder/training`.

    Pairs of one instruction stay on one side of the split into train and held-out. An interrupted training goes
    on from its checkpoint and ends with the same model and the same curve.
    """
    from hf_icon2.trainers.adapters import lora_config
    from hf_icon2.trainers.checkpoints import resumable_checkpoint, save_merged
    from hf_icon2.trainers.dpo import Icon2DPOTrainer
    from hf_icon2.trainers.progress import QuietBar

    settings = recipe.training
    train, held_out = split_by_instruction(pairs, settings.held_out, recipe.seed)
    checkpoints = (folder / "training").resolve()  # the trainer's state names the best checkpoint by its path
    lora = lora_config(settings.lora_rank) if settings.lora_rank else None
    trainer = Icon2DPOTrainer(
        load_model(subject.source, subject.revision),
        ref_model=None if lora else subject.model,  # stays as it was, for the evaluation before training
        args=_config(recipe, checkpoints, len(train), bool(len(held_out))),
        train_dataset=train,
        eval_dataset=held_out if len(held_out) else None,
        processing_class=subject.tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(QuietBar)
    with _full_disk_named(folder, subject.model):
        trainer.train(resume_from_checkpoint=resumable_checkpoint(checkpoints))
        save_merged(trainer, subject.tokenizer, folder / "model")
    history = trainer.state.log_history
    return {
        "pairs": len(train),
        "held_out_pairs": len(held_out),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        "pairs_per_step": trainer.args.pairs_per_step,
        "curve": [
            {"step": row["step"], **{name: row[name] for name in _CURVE if name in row}}
            for row in history
            if any(name in row for name in _CURVE)
        ],
        "monitor": trainer.monitor.outcome(),
        "best_step": _best_step(trainer.state.best_model_checkpoint),
    }


_CURVE = ("loss", "rewards/accuracies", "rewards/margins", "eval_loss", "eval_rewards/accuracies")


@contextmanager
def _full_disk_named(folder: Path, model: PreTrainedModel) -> Iterator[None]:
    """Checkpoints are written by libraries that report a full disk as an error of their own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        checkpoint = 3 * sum(
            weight.numel() * weight.element_size() for weight in model.parameters()
        )  # and Adam's
        if shutil.disk_usage(folder).free >= checkpoint:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def split_by_instruction(pairs: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Pairs to train on and held-out pairs, divided by the hash of the prompt."""

    def draw(prompt: object) -> float:
        digest = hashlib.sha256(f"{seed}/{json.dumps(prompt)}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    held_out = [draw(prompt) < share for prompt in pairs["prompt"]]
    return (
        pairs.select([index for index, held in enumerate(held_out) if not held]),
        pairs.select([index for index, held in enumerate(held_out) if held]),
    )


def _config(recipe: Recipe, checkpoints: Path, pairs: int, evaluate: bool) -> Any:  # noqa: ANN401
    import torch

    from hf_icon2.trainers.config import Icon2DPOConfig

    settings = recipe.training
    steps = settings.max_steps
    if steps <= 0:
        steps = math.ceil(settings.epochs * math.ceil(pairs / (settings.batch_size * settings.accumulation)))
    # An evaluation, and so a checkpoint, ends a logging interval: what is averaged over it is not in a checkpoint.
    log = max(1, steps // 50)
    every = log * max(1, steps // (log * settings.evaluations))
    given: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("beta", "learning_rate")
        if getattr(settings, name) is not None
    }
    watched: dict[str, Any] = (
        {"eval_strategy": "steps", "eval_steps": every, "early_stopping_patience": 3} if evaluate else {}
    )
    return Icon2DPOConfig(
        str(checkpoints),
        seed=recipe.seed,
        max_steps=settings.max_steps,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=settings.max_length,
        logging_steps=log,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,  # the patience used up so far
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        **watched,
        **given,
    )


def _best_step(checkpoint: str | None) -> int | None:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else None
