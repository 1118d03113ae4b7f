"""Adapters that are trained in the place of all weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import LoraConfig


def lora_config(rank: int) -> LoraConfig:
    """A LoRA adapter on every linear layer but the head, with alpha = 2 x rank."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", target_modules="all-linear")
