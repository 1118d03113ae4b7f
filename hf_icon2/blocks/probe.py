"""The proof that steering a model means what it should, by running it: no list of supported models is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_icon2.blocks.reading import block_output, evaluating

if TYPE_CHECKING:
    from hf_icon2.blocks.finding import Blocks


@dataclass
class _Pass:
    """One pass of the probe: what each block took in and put out, and what was handed on in place of that."""

    layers: list[int] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    handed_on: list[Tensor] = field(default_factory=list)
    result: Any = None


def probe(model: PreTrainedModel, blocks: Blocks) -> None:
    """Proves on three rows of two tokens that adding to a block's output, in place, means what it should.

    The first pass changes row 0, in copies. Every block must be called once and in order, put out
    (3, 2, hidden) and take in what the block before it handed on; and no token may see later ones. The second
    pass changes row 0 in place, and row 2 beside it: rows 0 and 1 must go on as in the first. Behind the last
    block it changes row 1 too, and that must reach what the trunk puts out.

    The change flips the sign of half of the features: it is as large as the state and of the same norm, so that
    no number format overflows. Every block gets the same input in both passes, so rounding does not add up.

    Raises:
        ValueError: If anything of this does not hold, with the block where it does not.
    """
    last = len(blocks.layers) - 1
    a, b, c = ordinary_ids(model)
    ids = torch.tensor([[c, b], [a, b], [a, c]], device=input_device(model))  # rows 1 and 2 start alike
    signs = 1 - 2.0 * torch.randint(2, (blocks.hidden_size,), generator=torch.Generator().manual_seed(0))

    def flip(states: Tensor, *rows: int) -> Tensor:
        factors = torch.ones(3, 1, blocks.hidden_size)
        factors[list(rows)] = signs
        return states * factors.to(states)

    def in_a_copy(_layer: int, output: Tensor) -> Tensor:
        return flip(output, 0)

    def in_place(layer: int, output: Tensor) -> Tensor:
        rows = (1, 2) if layer == last else (2,)
        return output.copy_(flip(first.handed_on[layer], *rows))

    first = _run(model, blocks, ids, in_a_copy)
    _check_calls(blocks, first)
    _check_links(blocks, first)
    _check_causal(first)
    second = _run(model, blocks, ids, in_place)
    _check_links(blocks, second)
    _check_rows(blocks, first, second)
    if first.result[1].isfinite().all() and same_states(first.result[1], second.result[1]):
        raise Unsupported(f"what is added behind {_block(blocks, last)} does not reach the model's output")


class Unsupported(ValueError):
    """Part of a sentence; `find_blocks` puts the model's name before it."""


def _run(
    model: PreTrainedModel, blocks: Blocks, ids: Tensor, change: Callable[[int, Tensor], Tensor]
) -> _Pass:
    """Runs the trunk with every block's output changed, and notes what passes between the blocks."""
    found, owner = _Pass(), threading.get_ident()
    shape = (*ids.shape, blocks.hidden_size)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == owner:
            taken = args[0] if args else kwargs.get("hidden_states")
            found.taken.append(taken.clone() if isinstance(taken, Tensor) else None)

    def after(layer: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: object, output: Any) -> Any:  # noqa: ANN401
            if threading.get_ident() != owner:
                return None
            states = block_output(output)
            found.layers.append(layer)
            found.outputs.append(states.clone())
            if states.shape != shape:
                return None
            changed = change(layer, states)
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
        raise Unsupported(
            f"it does not run on token ids with its blocks steered ({type(error).__name__}: {error})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _check_calls(blocks: Blocks, found: _Pass) -> None:
    """Every block once, in order, one vector per token."""
    if found.layers != list(range(len(blocks.layers))):
        raise Unsupported(
            f"it does not run its decoder blocks once each and in order (calls: {found.layers})"
        )
    expected = (3, 2, blocks.hidden_size)
    for layer, output in enumerate(found.outputs):
        if output.shape != expected:
            raise Unsupported(
                f"{_block(blocks, layer)} puts out shape {tuple(output.shape)} for three rows of two tokens, "
                f"expected {expected}"
            )


def _check_links(blocks: Blocks, found: _Pass) -> None:
    """What a block hands on is what the next takes in, perhaps scaled: their outputs are one stream."""
    for layer, (states, taken) in enumerate(zip(found.handed_on, found.taken[1:], strict=False)):
        if taken is None or taken.shape != states.shape or not same_states(_unit(states), _unit(taken)):
            raise Unsupported(
                f"{_block(blocks, layer + 1)} does not take in what the block before it puts out"
            )


def _check_causal(found: _Pass) -> None:
    """Rows 1 and 2 differ in their second token only."""
    for layer, output in enumerate(found.outputs):
        if not same_states(output[1, 0], output[2, 0]):
            raise Unsupported(
                f"the state of a token behind block {layer} depends on later tokens, so it is no causal model "
                "(an encoder may become one by is_decoder=True)"
            )


def _check_rows(blocks: Blocks, first: _Pass, second: _Pass) -> None:
    """Row 1 is beside a row that only the second pass changes; row 0 is changed in place there."""
    for layer, (before, after) in enumerate(zip(first.outputs, second.outputs, strict=True)):
        for row, cause in (1, "another row is steered"), (0, "steered in place and not in a copy"):
            if not same_states(before[row], after[row]):
                raise Unsupported(f"{_block(blocks, layer)} puts out other states when {cause}")


def same_states(expected: Tensor, found: Tensor) -> bool:
    """Whether two computations of the same thing agree, up to rounding and the experts that rounding exchanges.

    What is not finite in either is left out: an overflow says nothing about the architecture, and is reported
    where states are used.
    """
    tolerance = 0.005 if expected.dtype.itemsize >= 4 else 0.05
    expected, found = expected.float().cpu(), found.float().cpu()
    finite = expected.isfinite() & found.isfinite()
    return bool((found - expected)[finite].norm() <= tolerance * expected[finite].norm())


def _unit(states: Tensor) -> Tensor:
    flat = states.float().flatten()
    unit: Tensor = (flat / flat[flat.isfinite()].norm()).to(states.dtype)
    return unit


def _block(blocks: Blocks, layer: int) -> str:
    return f"block {layer} ({type(blocks.layers[layer]).__name__})"


def ordinary_ids(model: PreTrainedModel) -> list[int]:
    """Three token ids from the middle of the vocabulary to which the configuration gives no meaning."""
    config = model.config.get_text_config(decoder=True)
    named = {value for part in (model.config, config) for value in vars(part).values() if type(value) is int}
    return [token for token in range(config.vocab_size // 2, config.vocab_size) if token not in named][:3]


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids must be: a model spread by `device_map` or offloaded tells it at its embeddings.

    Raises:
        ValueError: If the weights are on no device, so that the model cannot run.
    """
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    device: torch.device = torch.device(getattr(hook, "execution_device", None) or model.device)
    if device.type == "meta":
        raise ValueError(
            f"the weights of this {type(model).__name__} are on the meta device, that is, not loaded; load them "
            "first, then measure or steer"
        )
    return device
