"""Adapters that are trained in the place of all weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def lora_config(rank: int) -> LoraConfig:
    """A LoRA adapter on every linear layer but the head, with alpha = 2 x rank."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", target_modules="all-linear")


def load_merged(source: str) -> PreTrainedModel:
    """A causal LM of an adapter's folder or repo, the adapter merged into its weights."""
    from peft import AutoPeftModelForCausalLM

    adapted = AutoPeftModelForCausalLM.from_pretrained(source)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.requires_grad_(True)  # PEFT froze them
