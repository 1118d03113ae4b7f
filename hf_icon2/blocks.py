"""The decoder blocks of a causal language model: find them, prove them by a probe, read what they put out.

Nothing here knows about criteria or directions. "Layer" is the 0-based index of a block, and the state at a
layer is that block's output, before any final norm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


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


def block_output(output: Any) -> Tensor:  # noqa: ANN401  (whatever a block returns)
    """The residual stream out of a block's return value: a tensor, or a tuple that starts with it."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise ValueError(
            f"a decoder block returned {type(first).__name__}, not a tensor; it is not supported"
        )
    return first


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


def find_blocks(model: nn.Module) -> Blocks:
    """Finds the decoder blocks of a causal language model and proves them by running two tokens.

    Args:
        model: A transformers causal LM, or a PEFT model around one.

    Raises:
        ValueError: If there is no list of blocks, or the probe shows that adding a (rows, 1, hidden) tensor
            to their outputs would not mean what it should. The message names the block.
    """
    inner = unwrap(model)
    if inner.config.is_encoder_decoder:
        raise ValueError(
            f"{type(inner).__name__} is an encoder-decoder model; only decoder-only models are supported"
        )
    config = inner.config.get_text_config(decoder=True)
    modules, trunk = _locate(inner, config.num_hidden_layers)
    blocks = Blocks(tuple(modules)[: config.num_hidden_layers], trunk, config.hidden_size)
    _probe(inner, blocks)
    return blocks


def _locate(model: PreTrainedModel, count: int) -> tuple[nn.ModuleList, nn.Module]:
    """The shallowest list of `count` blocks, and the module to call so that they run without the LM head."""
    decoder = model.get_decoder()
    roots = [decoder] if isinstance(decoder, PreTrainedModel) else []
    for root in (*roots, model.base_model, model):
        lists = [
            (name, module)
            for name, module in root.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) >= count > 0
        ]
        good = [
            item for item in lists if all(isinstance(block, GradientCheckpointingLayer) for block in item[1])
        ] or [item for item in lists if len(item[1]) == count]
        if good:
            name, modules = min(good, key=lambda item: (item[0].count("."), len(item[0])))
            owner = root.get_submodule(name.rpartition(".")[0])
            return modules, owner if isinstance(owner, PreTrainedModel) else root
    raise ValueError(f"{type(model).__name__} has no list of {count} decoder blocks; it is not supported")


def _probe(model: PreTrainedModel, blocks: Blocks) -> None:
    """Runs two tokens: every block must be called once, in order, and put out a (1, 2, hidden) tensor."""
    calls: list[tuple[int, tuple[int, ...]]] = []

    def note(layer: int, output: Tensor) -> None:
        calls.append((layer, tuple(output.shape)))

    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad(), _watching(blocks, range(len(blocks.layers)), note):
        blocks.trunk(input_ids=ids, use_cache=False)
    name = type(model).__name__
    order = [layer for layer, _ in calls]
    if order != list(range(len(blocks.layers))):
        raise ValueError(
            f"{name} does not run its decoder blocks once each and in order (calls: {order}); steering it "
            "would be wrong, so it is not supported"
        )
    for layer, shape in calls:
        if shape != (1, 2, blocks.hidden_size):
            raise ValueError(
                f"{name}: block {layer} ({type(blocks.layers[layer]).__name__}) puts out shape {shape} for "
                f"one row of two tokens, expected (1, 2, {blocks.hidden_size}); it is not supported"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside the block: a trainer leaves its model in training mode, and states must not vary."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Stop(Exception):
    """Ends a forward pass after the deepest layer that is read."""


def read_states(
    blocks: Blocks, layers: Sequence[int], read: Callable[[Tensor], Tensor], **inputs: object
) -> Tensor:
    """Runs the trunk once, up to the deepest layer named, and keeps only what `read` takes from each.

    Args:
        blocks: Of the model to run.
        layers: L layers to read, ascending.
        read: Maps a block's output (B, T, D) to the part to keep, usually (B, D); keeping little is what
            makes extraction light.
        **inputs: What the trunk's forward takes.

    Returns:
        What was read, float32 on the CPU, stacked on dimension 1: (B, L, ...).
    """
    kept: dict[int, Tensor] = {}

    def keep(layer: int, output: Tensor) -> None:
        kept[layer] = read(output).float()
        if layer == layers[-1]:
            raise _Stop

    with torch.no_grad(), _watching(blocks, layers, keep), suppress(_Stop):
        blocks.trunk(**inputs)
    return torch.stack([kept[layer].cpu() for layer in layers], dim=1)  # one sync, after the pass


@contextmanager
def _watching(blocks: Blocks, layers: Sequence[int], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls `keep` with the outputs of the named blocks, for forward passes of this thread only."""
    owner = threading.get_ident()

    def watch(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if threading.get_ident() == owner:
                keep(layer, block_output(output))

        return hook

    handles = [blocks.layers[layer].register_forward_hook(watch(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
