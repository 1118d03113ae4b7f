"""Reads given answers with the unsteered model: where their states lie, and how likely they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hf_icon2.blocks import Blocks, find_blocks, input_device, read_states, refuse_soft_prompt, unwrap
from hf_icon2.directions.estimation import scale_norms
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.hooks import installed_state
from hf_icon2.steering.padding import try_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int], object]


class Row(NamedTuple):
    """Token ids of a prompt and of one answer to it."""

    prompt: list[int]
    response: list[int]


def response_projections(
    model: PreTrainedModel,
    directions: DirectionVectors,
    rows: Sequence[Row],
    criteria: Sequence[str],
    *,
    pad: int,
    batch_size: int = 16,
    progress: Progress = lambda _done: None,
) -> Tensor:
    """How far each answer lies along its criterion's direction, as the unsteered model reads it.

    For each control layer of the criterion: the mean state over the answer's tokens, projected on the unit
    direction and divided by the mean residual norm of that layer, which makes layers and models comparable.

    Args:
        model: The model that the directions were measured on.
        directions: Directions of the criteria.
        rows: N prompts with answers.
        criteria: N names, one per row.
        pad: Padding id.
        batch_size: Rows per forward pass.
        progress: Called with the number of rows done.

    Returns:
        Mean over the control layers, in mean residual norms, (N,) float32 on the CPU; 0 for an empty answer.
    """
    config, blocks = directions.config, find_blocks(model)
    layers = sorted({layer for name in set(criteria) for layer in config.control_layers[name]})
    places = [config.layers.index(layer) for layer in layers]
    norms = scale_norms(replace(config, scale="residual"))[0, places, None]
    units = dict(zip(directions.names, directions.unit()[:, places] / norms, strict=True))  # name -> (L, D)
    weights = {name: _controlled(layers, config.control_layers[name]) for name in set(criteria)}
    result = torch.empty(len(rows))
    with _unsteered(model):
        for batch in _by_length(rows, batch_size):
            states = _mean_states(model, blocks, layers, [rows[index] for index in batch], pad)  # (B, L, D)
            names = [criteria[index] for index in batch]
            along = (states * torch.stack([units[name] for name in names])).sum(-1)  # (B, L)
            result[batch] = (along * torch.stack([weights[name] for name in names])).sum(-1)
            progress(len(batch))
    return result


def unsteered_logps(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    pad: int,
    batch_size: int = 16,
    progress: Progress = lambda _done: None,
) -> Tensor:
    """Log-probability of each answer given its prompt, without any steering.

    Logits are made for the answers' columns only. The end-of-turn token is not counted.

    Args:
        model: Causal LM, or a PEFT model around one.
        rows: N prompts with answers.
        pad: Padding id.
        batch_size: Rows per forward pass.
        progress: Called with the number of rows done.

    Returns:
        Sums over the answer's tokens in nats, (N,) float32 on the CPU; 0 for an empty answer.
    """
    refuse_soft_prompt(model)
    inner = unwrap(model)
    result, device = torch.zeros(len(rows)), input_device(inner)
    with _unsteered(model), torch.no_grad():
        padding = try_padding(inner, find_blocks(model).trunk, pad)
        for batch in _by_length(rows, batch_size, equal=not padding.harmless):
            # Left padding: all answers end in the last column, so the logits wanted are the last ones.
            ids, mask = pad_batch([sum(rows[index], []) for index in batch], pad, side="left")
            ids, mask = ids.to(device), mask.to(device)
            positions = padding.arguments((mask.cumsum(-1) - 1).clamp(min=0))
            longest = max(len(rows[index].response) for index in batch)
            logits = inner(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=longest + 1, **positions
            ).logits  # (B, longest + 1, V)
            for place, index in enumerate(batch):
                if length := len(rows[index].response):
                    result[index] = _sum_logps(logits[place, -1 - length : -1], ids[place, -length:])
            progress(len(batch))
    return result


def _sum_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Sum of the ids' log-probabilities; logits (T, V), ids (T,). One row at a time spares memory."""
    return logits.float().log_softmax(-1).gather(-1, ids[:, None]).sum()


def _mean_states(
    model: PreTrainedModel, blocks: Blocks, layers: list[int], rows: list[Row], pad: int
) -> Tensor:
    """Mean state over the answer's tokens, (B, L, D); zero for an empty answer."""
    device = input_device(model)
    ids, mask = (tensor.to(device) for tensor in pad_batch([sum(row, []) for row in rows], pad, side="right"))
    starts = torch.tensor([len(row.prompt) for row in rows], device=device)
    keep = mask.bool() & (torch.arange(ids.shape[1], device=device) >= starts[:, None])  # (B, T)
    weights = keep / keep.sum(1, keepdim=True).clamp(min=1)

    def pool(states: Tensor) -> Tensor:  # (B, T, D) -> (B, D)
        return torch.einsum("bt,btd->bd", weights.to(states.device), states.float())

    return read_states(blocks, layers, pool, input_ids=ids, attention_mask=mask, use_cache=False)


def _controlled(layers: list[int], control: Sequence[int]) -> Tensor:
    """Weights over layers that average over the control layers, (L,)."""
    mask = torch.tensor([float(layer in control) for layer in layers])
    return mask / mask.sum()


def _by_length(rows: Sequence[Row], batch_size: int, equal: bool = False) -> Iterator[list[int]]:
    """Batches of like length, longest first; of one length only, if `equal`."""
    lengths = [sum(map(len, row)) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: -lengths[index])
    for _, group in groupby(order, key=lambda index: lengths[index] if equal else 0):
        indices = list(group)
        yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))


def _unsteered(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Sets aside whatever steering surrounds the call."""
    state = installed_state(model)
    return nullcontext() if state is None else state.active(None)
