"""A PEFT adapter that adds a steering: BEFT, a bias on the linear layer that ends each steered block."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import BeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save
from torch import Tensor, nn

from hf_icon2.blocks import Blocks, evaluating, find_blocks, read_states, unwrap
from hf_icon2.cards import adapter_card
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.interchange.fixed import describe, fixed_vectors
from hf_icon2.steering.plans import RowSteering
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def export_peft(
    model: nn.Module, directions: DirectionVectors, steering: RowSteering, folder: str | os.PathLike[str]
) -> Path:
    """Writes one steering as a BEFT adapter, for `PeftModel.from_pretrained` or `model.load_adapter`.

    The adapted model equals `generate(..., steering=steering, positions="all")`: BEFT adds a bias to the output of
    a linear layer, which is the same where that output goes unchanged into the block's. Whether it does is not
    told by names: each candidate of a steered block is tried on a probe. The sums are taken in another order, so
    logits agree to rounding, and greedy answers in float32 token for token.

    Args:
        model: Measured with `directions`; not changed.
        directions: Measured on this model.
        steering: Strength per criterion.
        folder: Folder to write; made if missing.

    Returns:
        The folder.

    Raises:
        ValueError: For an unknown criterion, directions of another model, a model that wears an adapter, or a
            block none of whose linear layers ends in its output (post-norms, experts, `Conv1D`).
    """
    inner, blocks = _plain_model(model), find_blocks(model)
    directions.check_model(blocks.hidden_size, len(blocks.layers))
    vectors = fixed_vectors(directions, steering)
    ends = [_linear_end(inner, blocks, layer) for layer in vectors]
    names = {module: name for name, module in inner.named_modules()}
    biases = {names[module]: vector for module, vector in zip(ends, vectors.values(), strict=True)}
    return _write(Path(folder), biases, inner, directions, steering)


def _plain_model(model: nn.Module) -> PreTrainedModel:
    inner = unwrap(model)
    if any(isinstance(module, BaseTunerLayer) for module in inner.modules()):
        raise ValueError(
            "this model already wears an adapter; pass the base model, or merge the adapter first"
        )
    return inner


def _linear_end(model: PreTrainedModel, blocks: Blocks, layer: int) -> nn.Linear:
    """The linear layer whose output reaches the block's output as a summand.

    A random vector about as long as the residual stream is added to each candidate's output in turn; the block's
    output must move by that vector at every position of the probe. The block's input is the same each time.
    """
    block = blocks.layers[layer]
    wide = [module for module in block.modules() if isinstance(module, nn.Linear)]
    candidates = [module for module in reversed(wide) if module.out_features == blocks.hidden_size]
    with evaluating(model):
        plain = _output(model, blocks, layer)
        vector = torch.randn(plain.shape[-1], generator=torch.Generator().manual_seed(0))
        vector = vector * plain.norm(dim=-1).mean() / vector.norm()
        # A few summands, rounded in the model's dtype and in another order.
        tolerance = 4 * torch.finfo(model.dtype).eps * (plain.norm(dim=-1) + vector.norm())
        for module in candidates:
            moved = _output(model, blocks, layer, at=module, add=vector)
            if bool(((moved - plain - vector).norm(dim=-1) <= tolerance).all()):
                return module
    raise ValueError(
        f"block {layer} ({type(block).__name__}) has no linear layer whose output goes unchanged into the block's "
        "output, so a BEFT adapter cannot add to it exactly; steer with this library, or export to gguf or lm-eval"
    )


def _output(
    model: PreTrainedModel, blocks: Blocks, layer: int, at: nn.Module | None = None, add: Tensor | None = None
) -> Tensor:
    """The block's output for a probe of eight tokens, (8, D) float32, with a vector added to a module's output."""
    last = model.config.get_text_config(decoder=True).vocab_size - 1
    ids = torch.linspace(0, last, 8).long()[None].to(model.device)
    handle = None
    if at is not None and add is not None:
        handle = at.register_forward_hook(lambda _module, _args, output: output + add.to(output))
    try:
        return read_states(blocks, [layer], lambda states: states[0], input_ids=ids, use_cache=False)[:, 0]
    finally:
        if handle is not None:
            handle.remove()


def _write(
    folder: Path,
    biases: dict[str, Tensor],
    model: PreTrainedModel,
    directions: DirectionVectors,
    steering: RowSteering,
) -> Path:
    """Weights, card and, last, the config, without which PEFT sees no adapter."""
    base = model.name_or_path or directions.config.base_model
    with tempfile.TemporaryDirectory() as temporary:
        BeftConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
            target_modules=list(biases),
            inference_mode=True,
        ).save_pretrained(temporary)
        config = json.loads((Path(temporary) / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"].sort()  # PEFT keeps a set; the same export is the same file
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name}.beft_bias": bias[None].contiguous() for name, bias in biases.items()}
    write_atomic(folder / "adapter_model.safetensors", save(tensors, {"format": "pt"}))
    write_atomic(folder / "README.md", adapter_card(base, describe(directions, steering), sorted(biases)))
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder
