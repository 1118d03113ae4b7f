"""The only change made to a model: one gated hook per block, installed once, inert unless a plan is active.

The active plan is kept per thread, so that several threads can steer one model differently, and a copy of the
model gets a state of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hf_icon2.blocks import block_output, find_blocks, unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.plans import Plan, Steering, plan_steering


class SteeringState:
    """What the hooks of one model share: its default directions and, per thread, the active plan."""

    def __init__(self, hidden_size: int, num_layers: int, directions: DirectionVectors | None = None) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.directions = directions
        self._local = threading.local()

    @property
    def plan(self) -> Plan | None:
        """The plan of this thread, None while nothing is steered."""
        return getattr(self._local, "plan", None)

    @contextmanager
    def active(self, plan: Plan | None) -> Iterator[None]:
        """Steers this thread's forward passes by `plan`; an outer plan is set aside and comes back."""
        outer = self.plan
        self._local.plan = plan
        try:
            yield
        finally:
            self._local.plan = outer

    def __getstate__(self) -> dict[str, Any]:
        # thread-local storage can be neither copied nor pickled, and a copy must not share it
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values, _local=threading.local())


class _TrunkHook:
    """Before each pass: tells the plan which columns of the sequence the pass covers."""

    def __init__(self, state: SteeringState) -> None:
        self.state = state

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plan = self.state.plan
        if plan is None:
            return
        if kwargs.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "continuous batching packs requests into one row, so steering cannot tell them apart; "
                "use generate() instead of generate_batch()"
            )
        inputs = args[0] if args else kwargs.get("input_ids")
        if inputs is None:
            inputs = kwargs["inputs_embeds"]
        plan.begin(inputs.shape[1], kwargs.get("past_key_values"), kwargs.get("attention_mask"))


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
    """The steering state of a model; installs the hooks if they are not there yet.

    Raises:
        ValueError: If the model's blocks cannot be steered (see `find_blocks`).
    """
    installed = installed_state(model)
    if installed is not None:
        return installed
    blocks = find_blocks(model)
    state = SteeringState(blocks.hidden_size, len(blocks.layers))
    for layer, block in enumerate(blocks.layers):
        # First in line, so that transformers' own recording of hidden states sees the steered stream.
        block.register_forward_hook(_BlockHook(state, layer), prepend=True)
    blocks.trunk.register_forward_pre_hook(_TrunkHook(state), with_kwargs=True)
    return state


def installed_state(model: nn.Module) -> SteeringState | None:
    """The steering state of a model, None if it was never steered. Found through its hooks, so copies have theirs."""
    found = _hooked_trunk(model)
    return None if found is None else found[1]


def steered_trunk(model: nn.Module) -> tuple[nn.Module, SteeringState]:
    """The module that runs a model's blocks without the LM head, and the state; installs the hooks if needed."""
    steering_state(model)
    found = _hooked_trunk(model)
    assert found is not None
    return found


def _hooked_trunk(model: nn.Module) -> tuple[nn.Module, SteeringState] | None:
    for module in unwrap(model).modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _TrunkHook):
                return module, hook.state
    return None


@contextmanager
def steer(
    model: nn.Module, directions: DirectionVectors, steering: Steering, *, start: int | None = None
) -> Iterator[None]:
    """Steers every forward pass of this thread inside the `with` block, whatever library makes it.

    All real tokens are steered, padding never is. `model.generate(steering=...)` instead starts at the last
    prompt token; the same follows here from `start=prompt_length - 1`. A steering inside a steering replaces it.

    Args:
        model: Causal LM, or a PEFT model around one.
        directions: Measured on this model.
        steering: Strength per criterion for all rows, or a list with one mapping (or None) per row.
        start: First steered column of the sequence, cached columns counted; all by default.

    Raises:
        ValueError: For an unknown criterion, directions of another model, or an unsupported architecture.
    """
    state = steering_state(model)
    directions.check_model(state.hidden_size, state.num_layers)
    with state.active(plan_steering(directions, steering, start=start, masked=True)):
        yield
