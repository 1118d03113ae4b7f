"""Read what blocks put out, without keeping more of it than is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hf_icon2.blocks.finding import Blocks


def block_output(output: Any) -> Tensor:  # noqa: ANN401  (whatever a block returns)
    """The residual stream out of a block's return value: a tensor, or a tuple that starts with it."""
    first = output[0] if type(output) is tuple else output
    if not isinstance(first, Tensor):
        raise ValueError(
            f"a decoder block returned {type(first).__name__}, not a tensor or a tuple that starts with one"
        )
    return first


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
