"""What the cards of all trainers say alike, and their place in the output folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers.trainer_utils import SchedulerType

from hf_icon2.trainers.sources import name_of


def training_settings(trainer: Any) -> dict[str, object]:  # noqa: ANN401 - any of ours, on any base
    """Settings and steps of a training, name to value."""
    args, state = trainer.args, trainer.state
    schedule = SchedulerType(args.lr_scheduler_type).value
    return {
        "learning rate": f"{args.learning_rate:g}, {schedule} schedule, warm-up {args.warmup_steps:g}",
        "rows per step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "steps": f"{state.global_step} of {state.max_steps}",
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "trained": "adapter" if is_peft_model(trainer.model) else "all weights",
        "seed": args.seed,
    }


def write_card(
    trainer: Any,  # noqa: ANN401
    card: Callable[..., str],
    model_name: str | None,
    dataset_name: str | None,
    tags: str | Sequence[str] | None,
    **training: object,
) -> None:
    """Writes README.md into the output folder.

    Args:
        trainer: After training; only its first process writes.
        card: Makes the text from the other arguments, the base model, all tags and the versions.
        model_name: Title; by default the folder's name.
        dataset_name: Id of the rows on the Hub.
        tags: Tags besides those of the trainer.
        **training: Further arguments of `card`.
    """
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    text = card(
        model_name=model_name or folder.name,
        base_model=name_of(trainer.model),
        tags=[*trainer._tag_names, *([tags] if isinstance(tags, str) else tags or ())],
        dataset_name=dataset_name,
        versions=", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch")),
        **training,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
