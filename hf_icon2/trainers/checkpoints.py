"""Checkpoints that an interrupted training can go on from, and the model that it ends with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resumable_checkpoint(checkpoints: Path) -> str | None:
    """The latest checkpoint that is whole and has steps left; later ones are removed.

    From a training's last checkpoint the trainer would take one step too many, and an early stop is forgotten on the
    way through disk; both end as they did when they are repeated from the checkpoint before.
    """
    found = sorted(
        checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True
    )
    for path in found:
        if _is_whole(path) and not _has_stopped(path):
            return str(path)
        shutil.rmtree(path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether nothing cut its writing or its deletion short; of what is written, the trainer's state comes last."""
    names = {path.name for path in checkpoint.iterdir()}
    weights = {"model.safetensors", "adapter_model.safetensors"} & names
    if "model.safetensors.index.json" in names:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        weights = set(index["weight_map"].values())
    needed = {TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, *weights}
    random_states = [name for name in names if name.startswith("rng_state")]
    return bool(weights and random_states) and needed <= names


def _has_stopped(checkpoint: Path) -> bool:
    """Whether training was over; so is a checkpoint whose state is cut short."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return True
    return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def save_merged(
    trainer: Any,  # noqa: ANN401  (any trainer with a card)
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    name: str | None = None,
) -> None:
    """Saves a plain model (adapters merged) beside its tokenizer and card, whole or not at all.

    Args:
        trainer: Whose training is over.
        tokenizer: Of its model.
        target: Folder; what it held is replaced.
        name: Title of the card; by default that of the trainer's output folder.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if callable(getattr(model, "merge_and_unload", None)):
        model = model.merge_and_unload()
    partial = target.with_name(".model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    trainer.create_model_card(model_name=name)
    shutil.copy(Path(trainer.args.output_dir) / "README.md", partial / "README.md")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
