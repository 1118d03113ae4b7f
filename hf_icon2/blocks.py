"""The decoder blocks of a causal language model: find them, prove them by a probe, read what they put out.

Nothing here knows about criteria or directions. "Layer" is the 0-based index of a block, and the state at a
layer is that block's output, before any final norm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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


@dataclass
class _Pass:
    """One pass of the probe: what each block took in and put out, and what was handed on in place of that."""

    layers: list[int] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    handed_on: list[Tensor] = field(default_factory=list)
    result: Any = None


def _probe(model: PreTrainedModel, blocks: Blocks) -> None:
    """Proves on three rows of two tokens that adding to a block's output, in place, means what it should.

    A first pass changes row 0 in copies: every block must be called once, in order, put out (3, 2, hidden) and
    take in what the block before it handed on, and no token's state may depend on later tokens. A second pass
    changes row 0 in place in the same way, and row 2 beside it: rows 0 and 1 must go on as before. Behind the
    last block it changes row 1, and that must reach the trunk's output.

    The change flips the sign of half of the features: as large as the state, of the same norm, so no number
    format overflows. Every block gets the same input in both passes, so rounding does not add up.
    """
    name, last = type(model).__name__, len(blocks.layers) - 1
    a, b, c = _ordinary_ids(model)
    ids = torch.tensor([[c, b], [a, b], [a, c]], device=_input_device(model))  # rows 1 and 2 start alike
    signs = 1 - 2 * torch.randint(2, (blocks.hidden_size,), generator=torch.Generator().manual_seed(0))

    def flipped(states: Tensor, *rows: int) -> Tensor:
        factors = torch.ones(3, 1, blocks.hidden_size)
        factors[list(rows)] = signs.float()
        return states * factors.to(states)

    first = _run(model, blocks, ids, lambda _layer, output: flipped(output, 0))
    _check_calls(name, blocks, first)
    if first.outputs[0].is_meta:
        return  # a model without weights has shapes only
    _check_links(name, blocks, first)
    for layer, output in enumerate(first.outputs):
        if not _same(output[1, 0], output[2, 0]):
            raise ValueError(
                f"{name}: a token's state after block {layer} depends on later tokens; only causal models are "
                "supported, so if this is an encoder, load it with is_decoder=True"
            )
    second = _run(
        model,
        blocks,
        ids,
        lambda layer, output: output.copy_(
            flipped(first.handed_on[layer], *((1, 2) if layer == last else (2,)))
        ),
    )
    _check_links(name, blocks, second)
    for layer, (before, after) in enumerate(zip(first.outputs, second.outputs, strict=True)):
        for row, cause in (1, "another row is steered"), (0, "it is steered in place instead of in a copy"):
            if not _same(before[row], after[row]):
                raise ValueError(
                    f"{name}: {_block(blocks, layer)} changes a row when {cause}; it is not supported"
                )
    if _same(first.result[1], second.result[1]):
        raise ValueError(
            f"{name}: what is added behind {_block(blocks, last)} does not reach the output of the model; "
            "it is not supported"
        )


def _run(
    model: PreTrainedModel, blocks: Blocks, ids: Tensor, change: Callable[[int, Tensor], Tensor]
) -> _Pass:
    """Runs the trunk with every block's output changed, and notes what passes between the blocks."""
    found = _Pass()

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken = args[0] if args else kwargs.get("hidden_states")
        found.taken.append(taken.clone() if isinstance(taken, Tensor) else None)

    def after(layer: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: object, output: Any) -> Any:  # noqa: ANN401
            states = block_output(output)
            found.layers.append(layer)
            found.outputs.append(states.clone())
            changed = change(layer, states) if states.shape[-1] == blocks.hidden_size else states
            found.handed_on.append(changed.clone())
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks.layers]
    handles += [block.register_forward_hook(after(layer)) for layer, block in enumerate(blocks.layers)]
    try:
        with torch.no_grad(), evaluating(model):
            found.result = blocks.trunk(input_ids=ids, use_cache=False)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be run on plain token ids ({type(error).__name__}: {error}); it is "
            "not supported"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _check_calls(name: str, blocks: Blocks, found: _Pass) -> None:
    """Every block once, in order, one vector per token."""
    if found.layers != list(range(len(blocks.layers))):
        raise ValueError(
            f"{name} does not run its decoder blocks once each and in order (calls: {found.layers}); steering it "
            "would be wrong, so it is not supported"
        )
    expected = (3, 2, blocks.hidden_size)
    for layer, output in enumerate(found.outputs):
        if output.shape != expected:
            raise ValueError(
                f"{name}: {_block(blocks, layer)} puts out shape {tuple(output.shape)} for three rows of two "
                f"tokens, expected {expected}; it is not supported"
            )


def _check_links(name: str, blocks: Blocks, found: _Pass) -> None:
    """What one block hands on is what the next takes in: their outputs are one stream."""
    for layer, (states, taken) in enumerate(zip(found.handed_on, found.taken[1:], strict=False)):
        if taken is None or taken.shape != states.shape or not _same(states, taken):
            raise ValueError(
                f"{name}: {_block(blocks, layer + 1)} does not take in what the block before it puts out, so "
                "what is added there would be lost or changed; it is not supported"
            )


def _same(expected: Tensor, found: Tensor) -> bool:
    """Equal up to the rounding of one block, expert choices that rounding turns included."""
    expected, found = expected.float().cpu(), found.float().cpu()
    return bool((found - expected).norm() <= 0.05 * expected.norm())


def _block(blocks: Blocks, layer: int) -> str:
    return f"block {layer} ({type(blocks.layers[layer]).__name__})"


def _ordinary_ids(model: PreTrainedModel) -> list[int]:
    """Three token ids from the middle of the vocabulary to which the configuration gives no meaning."""
    config = model.config.get_text_config(decoder=True)
    named = {value for part in (model.config, config) for value in vars(part).values() if type(value) is int}
    return [token for token in range(config.vocab_size // 2, config.vocab_size) if token not in named][:3]


def _input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids must be: a model spread by `device_map` tells it at its embeddings."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    device: torch.device = torch.device(getattr(hook, "execution_device", None) or model.device)
    return device


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
