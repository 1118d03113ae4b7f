"""Whether prompts of different lengths can share a batch: found by trying, for many models do it wrongly.

Absolute positions that are counted over padding, or counted from another number than 0, and recurrent states that
padding enters, all change an answer without any error.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_icon2.blocks import input_device, ordinary_ids, same_states
from hf_icon2.steering.cache import roomy_cache
from hf_icon2.steering.separate_runs import shares_prefill

_PADS = 16  # enough that a shift of positions by as many is seen


@dataclass(frozen=True)
class Padding:
    """How a model takes left-padded rows.

    Args:
        harmless: Whether padded rows run as if they were alone.
        positions: Whether it must be told each token's position, counted without padding.
    """

    harmless: bool
    positions: bool

    def arguments(self, positions: Tensor) -> dict[str, Tensor]:
        """What to pass to the model beside ids and mask."""
        return {"position_ids": positions} if self.positions else {}


@torch.no_grad()
def try_padding(model: PreTrainedModel, trunk: nn.Module, pad: int) -> Padding:
    """Runs three tokens alone, then behind padding, the last of them from the cache.

    Args:
        model: Of the trunk.
        trunk: Runs the blocks.
        pad: Padding id.

    Returns:
        Harmless only where all three agree; never where the model keeps its past in a form of its own.
    """
    if not shares_prefill(model):
        return Padding(harmless=False, positions=False)
    tokens = ordinary_ids(model)
    device = input_device(model)
    alone = torch.tensor([tokens], device=device)
    padded = torch.tensor([[pad] * _PADS + tokens], device=device)
    mask = torch.tensor([[0] * _PADS + [1] * len(tokens)], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = _last_state(trunk(input_ids=alone, use_cache=False))
    told = "position_ids" in inspect.signature(trunk.forward).parameters
    for padding in (Padding(True, True), Padding(True, False)) if told else (Padding(True, False),):
        cache = roomy_cache(model)
        for part in (slice(None, -1), slice(-1, None)):
            output = trunk(
                input_ids=padded[:, part],
                attention_mask=mask[:, : part.stop],
                past_key_values=cache,
                use_cache=True,
                **padding.arguments(positions[:, part]),
            )
        if same_states(expected, _last_state(output)):
            return padding
    return Padding(harmless=False, positions=False)


def _last_state(output: Any) -> Tensor:  # noqa: ANN401  (each model has its own kind of output)
    states: Tensor = output[0]
    return states[:, -1]
