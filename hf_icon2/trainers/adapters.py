"""Adapters that are trained in the place of all weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from transformers import PreTrainedModel, TrainingArguments


def adapted(model: PreTrainedModel, config: PeftConfig | None, args: TrainingArguments) -> nn.Module:
    """The model with an adapter around it if one is configured, ready for what `args` asks."""
    student: nn.Module = model
    if config is not None:
        from peft import TaskType, get_peft_model

        if model.config.is_encoder_decoder and config.task_type == TaskType.CAUSAL_LM:
            # TRL's default. Who loads the saved adapter would get a class that cannot hold the model.
            config = replace(config, task_type=TaskType.SEQ_2_SEQ_LM)
        student = get_peft_model(model, config)
    if is_peft_model(student) and args.gradient_checkpointing:
        student.enable_input_require_grads()  # type: ignore[operator]
    return student


def below_adapter(model: Any) -> Any:  # noqa: ANN401 - a model or an adapter around one
    """The model itself, without a PEFT wrapper."""
    return model.get_base_model() if is_peft_model(model) else model


def lora_config(rank: int) -> LoraConfig:
    """A LoRA adapter on every linear layer but the head, with alpha = 2 x rank."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", target_modules="all-linear")


def load_merged(source: str, *, encoder_decoder: bool = False) -> PreTrainedModel:
    """A causal LM, or an encoder-decoder, of an adapter's folder or repo, the adapter merged into its weights."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM

    kind = AutoPeftModelForSeq2SeqLM if encoder_decoder else AutoPeftModelForCausalLM
    merged: PreTrainedModel = kind.from_pretrained(source).merge_and_unload()
    return merged.requires_grad_(True)  # PEFT froze them
