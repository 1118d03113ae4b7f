"""What a trainer's settings are where nothing was said: bfloat16 and recomputation on a GPU that can, else neither."""

from __future__ import annotations

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available  # type: ignore[attr-defined]


def decide_precision(settings: TrainingArguments) -> None:
    """Sets `bf16` and `gradient_checkpointing` where they are None; TRL's own defaults fail without a GPU."""
    gpu = not settings.use_cpu and is_torch_bf16_gpu_available()
    if settings.bf16 is None:
        settings.bf16 = gpu and not settings.fp16
    if settings.gradient_checkpointing is None and settings.activation_checkpointing is None and gpu:
        settings.gradient_checkpointing = True
