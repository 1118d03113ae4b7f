"""Find the decoder blocks of a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_icon2.blocks.probe import Unsupported, probe


@dataclass(frozen=True)
class Blocks:
    """Where the residual stream of a model can be read and written.

    Args:
        layers: The decoder blocks in order.
        trunk: The module that runs them, without the language-model head.
        hidden_size: Width D of the residual stream.
    """

    layers: tuple[nn.Module, ...]
    trunk: nn.Module
    hidden_size: int

    def check(self, layers: Sequence[int]) -> None:
        """Raises ValueError for a layer this model does not have."""
        for layer in layers:
            if not 0 <= layer < len(self.layers):
                raise ValueError(
                    f"layer {layer} is not in this model; it has layers 0 to {len(self.layers) - 1}"
                )


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside `torch.compile` or a PEFT wrapper, or the model itself."""
    inner = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(inner, PreTrainedModel) and callable(getattr(inner, "get_base_model", None)):
        inner = inner.get_base_model()  # type: ignore[operator]
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(
            f"expected a transformers model (or a PEFT model around one), got {type(model).__name__}"
        )
    return inner


def refuse_soft_prompt(model: nn.Module) -> None:
    """Raises ValueError for a PEFT model with virtual tokens, where they would be left out without a word.

    Only the wrapper's own forward pass puts them before the prompt; whoever runs the model inside never sees them.
    """
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        raise ValueError(
            "this model has a soft prompt, which only its own generate() puts before the prompt: use "
            "model.generate(steering=...), or do without the soft prompt by passing model.get_base_model()"
        )


def find_blocks(model: nn.Module) -> Blocks:
    """Finds the decoder blocks of a causal language model and proves them by running a few tokens.

    Args:
        model: A transformers causal LM, or a PEFT model around one.

    Raises:
        ValueError: If there is no list of blocks, or the probe shows that adding to their outputs would not
            mean what it should (see `hf_icon2.blocks.probe`); the message names the block. Also if an adapter
            puts virtual tokens before the prompt.
    """
    refuse_soft_prompt(model)
    inner = unwrap(model)
    try:
        blocks = _locate(inner)
        probe(inner, blocks)
    except Unsupported as reason:
        raise ValueError(
            f"{type(inner).__name__} cannot be steered and is not supported: {reason}"
        ) from reason.__cause__
    return blocks


def number_of_blocks(config: PreTrainedConfig) -> int:
    """How many decoder blocks a model's configuration says it has; 0 where it does not say."""
    text = config.get_text_config(decoder=True)
    # LongCat's blocks hold two layers each, and its `num_layers` counts the blocks.
    count: int = getattr(text, "num_layers", getattr(text, "num_hidden_layers", 0))
    return count


def _locate(model: PreTrainedModel) -> Blocks:
    """The shallowest list of as many blocks as the text configuration says, and what to call to run them."""
    if model.config.is_encoder_decoder:
        raise Unsupported("it is an encoder-decoder model")
    count = number_of_blocks(model.config)
    if count < 1:
        raise Unsupported("its configuration does not say how many decoder blocks it has")
    decoder = model.get_decoder()
    roots = [decoder] if isinstance(decoder, PreTrainedModel) else []
    for root in (*roots, model.base_model, model):
        lists = [
            (name, module)
            for name, module in root.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) >= count
        ]
        good = [
            item for item in lists if all(isinstance(block, GradientCheckpointingLayer) for block in item[1])
        ] or [item for item in lists if len(item[1]) == count]
        if good:
            name, modules = min(good, key=lambda item: (item[0].count("."), len(item[0])))
            owner = root.get_submodule(name.rpartition(".")[0])
            trunk = owner if isinstance(owner, PreTrainedModel) else root
            return Blocks(
                tuple(modules)[:count], trunk, model.config.get_text_config(decoder=True).hidden_size
            )
    raise Unsupported(f"it has no list of {count} decoder blocks")
