"""The only change made to a model: one gated hook per block, installed once, inert unless a plan is active.

The active plan is kept per thread, so that several threads can steer one model differently, and a copy of the
model gets a state of its own.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_icon2.blocks import Blocks, block_output, find_blocks, unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.plans import Start, Steering, plan_steering
from hf_icon2.steering.state import SteeringState as SteeringState

# Held while a model is changed: threads that steer it first at the same time must not undo each other's hooks.
changing_models = threading.Lock()


class _TrunkHook:
    """Before each pass: tells the plan which columns of the sequence the pass covers."""

    def __init__(self, state: SteeringState, trunk: nn.Module) -> None:
        self.state = state
        self.names = tuple(inspect.signature(trunk.forward).parameters)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plan = self.state.plan
        if plan is None:
            if self.state.steered_elsewhere:
                self.state.check_stray(module, kwargs)
            return
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        inputs = next(
            (given[name] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None), None
        )
        inputs = args[0] if inputs is None else inputs
        if given.get("cu_seq_lens_q") is not None:
            plan.begin_packed(inputs, continuous=given.get("cache") is not None)
        else:
            past, mask = given.get("past_key_values"), given.get("attention_mask")
            plan.begin(inputs, past, mask, given.get("position_ids"))


class _BlockHook:
    """After a block: adds the plan's vector to the block's output."""

    def __init__(self, state: SteeringState, layer: int) -> None:
        self.state = state
        self.layer = layer

    def __call__(self, _module: nn.Module, _args: object, output: Any) -> Any:  # noqa: ANN401
        plan = self.state.plan
        if plan is None or self.layer not in plan.vectors:
            return None
        hidden = block_output(output)
        steered: Tensor = plan.add(self.layer, hidden)
        if steered is hidden:
            return None
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


def steering_state(model: nn.Module) -> SteeringState:
    """The steering state of a model; installs the hooks if they are not there, or not on every block any more.

    Raises:
        ValueError: If the model's blocks cannot be steered (see `find_blocks`).
    """
    state = _intact_state(model)
    if state is not None:
        return state
    with changing_models:
        return _intact_state(model) or _renew_hooks(model)


def _intact_state(model: nn.Module) -> SteeringState | None:
    state = installed_state(model)
    return state if state is not None and _all_blocks_hooked(model, state) else None


def _renew_hooks(model: nn.Module) -> SteeringState:
    state = installed_state(model)
    _remove_hooks(model)
    blocks = find_blocks(unwrap(model))  # soft prompts too: their own generate() may well be steered
    size = len(blocks.layers)
    state = state or SteeringState(blocks.hidden_size, size)
    state.hidden_size, state.num_layers = blocks.hidden_size, size
    _install_hooks(blocks, state)
    return state


def installed_state(model: nn.Module) -> SteeringState | None:
    """The steering state of a model, None if it was never steered. Found through its hooks, so copies have theirs."""
    found = _hooked_trunk(model)
    return None if found is None else found[1]


def default_directions(model: Any) -> DirectionVectors:  # noqa: ANN401
    """The directions that `make_steerable` gave a model.

    Raises:
        ValueError: If it has none, or if its blocks are not as many as they were.
    """
    state = installed_state(model)
    if state is None or state.directions is None:
        raise ValueError("this model has no directions; call make_steerable(model, directions) first")
    state.check(state.directions)  # layers may have been taken out since
    return state.directions


def steered_trunk(model: nn.Module) -> tuple[nn.Module, SteeringState]:
    """The module that runs a model's blocks without the LM head, and the state; installs the hooks if needed."""
    steering_state(model)
    found = _hooked_trunk(model)
    assert found is not None
    return found


def _hooked_trunk(model: nn.Module) -> tuple[nn.Module, SteeringState] | None:
    for module in unwrap(model).modules():
        for hook in tuple(module._forward_pre_hooks.values()):  # another thread may be adding its own
            if isinstance(hook, _TrunkHook):
                return module, hook.state
    return None


def _install_hooks(blocks: Blocks, state: SteeringState) -> None:
    for layer, block in enumerate(blocks.layers):
        # First in line, so that transformers' own recording of hidden states sees the steered stream.
        block.register_forward_hook(_BlockHook(state, layer), prepend=True)
    blocks.trunk.register_forward_pre_hook(_TrunkHook(state, blocks.trunk), with_kwargs=True)
    if "torch._dynamo" in sys.modules:
        # What was compiled before goes on without hooks that came later, torch does not guard on them.
        torch.compiler.reset()


def _all_blocks_hooked(model: nn.Module, state: SteeringState) -> bool:
    """Whether the hooks are as installed: PEFT's `modules_to_save` copies a block, with a hook of no effect."""
    hooks = list(_block_hooks(unwrap(model)))
    layers = sorted(hook.layer for hook in hooks)
    return layers == list(range(state.num_layers)) and all(hook.state is state for hook in hooks)


def _block_hooks(module: nn.Module) -> Iterator[_BlockHook]:
    """The hooks below a module; what lies inside a hooked block is not looked at, which is nearly all."""
    own = [hook for hook in module._forward_hooks.values() if isinstance(hook, _BlockHook)]
    yield from own
    if not own:
        for child in module.children():
            yield from _block_hooks(child)


def _remove_hooks(model: nn.Module) -> None:
    for module in unwrap(model).modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _BlockHook | _TrunkHook)]:
                del hooks[key]


@contextmanager
def steer(
    model: nn.Module,
    directions: DirectionVectors,
    steering: Steering,
    *,
    start: int | Sequence[int] | Tensor | None = None,
) -> Iterator[None]:
    """Steers every forward pass of this thread inside the `with` block, whatever library makes it.

    All real tokens are steered, padding never is. `model.generate(steering=...)` instead starts at the last
    prompt token; the same follows here from `start=prompt_length - 1`. A steering inside a steering replaces it.

    Args:
        model: Causal LM, or a PEFT model around one.
        directions: Measured on this model.
        steering: Strength per criterion for all rows, or a list with one mapping (or None) per row.
        start: First steered column of the sequence, cached columns counted; one for all rows, or one per row,
            (B,), as for prompts of several lengths that are padded on the right. All by default.

    Raises:
        TypeError: If `directions` are none, or a strength is not a number.
        ValueError: For an unknown criterion, directions of another model, an unsupported architecture, or a
            start that is no column.
    """
    state = steering_state(model)
    state.check(directions)
    plan = plan_steering(directions, steering, start=_first_columns(start), masked=True)
    with state.active(plan), state.open_block():
        yield


def _first_columns(start: int | Sequence[int] | Tensor | None) -> Start:
    """One column for all rows, or one per row, (B,); later passes may follow, so none counts from the end."""
    if start is None:
        return None
    columns = torch.as_tensor(start)
    whole = not columns.is_floating_point() and columns.dtype != torch.bool
    if not whole or columns.dim() > 1 or bool((columns < 0).any()):
        raise ValueError(
            f"start must be a column of the sequence, counted from 0, or one per row; got {start!r}. For the last "
            "token of a prompt give prompt_length - 1"
        )
    return columns if columns.dim() else int(columns)
