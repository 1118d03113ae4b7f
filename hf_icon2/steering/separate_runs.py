"""Each variant by a run of its own, for models whose cache cannot be shared: state-space models and their like.

The prompt is read once per variant instead of once. Only prompts of equal length share a batch, since no mask keeps
padding out of a recurrent state; and where transformers lets the rows of a batch disturb each other (RWKV), none do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from hf_icon2.blocks import input_device, ordinary_ids, same_states
from hf_icon2.steering.hooks import SteeringState
from hf_icon2.steering.sampling import Sampling, Tasks


def shares_prefill(model: PreTrainedModel) -> bool:
    """Whether transformers' own cache carries all that a model keeps of a prompt, so that its rows can be copied."""
    takes_cache = "past_key_values" in inspect.signature(type(model).forward).parameters
    return takes_cache and bool(model._supports_default_dynamic_cache())  # type: ignore[operator]


class _Chooser(LogitsProcessor):
    """Leaves each row one token: the one that the shared decoding would choose."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], prompt: int) -> None:
        self.sampling, self.seeds, self.prompt = sampling, seeds, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt
        chosen = self.sampling.choose(scores.float(), self.seeds, [step] * len(self.seeds))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def run_separately(
    model: PreTrainedModel, state: SteeringState, tasks: Tasks, sampling: Sampling, pad: int, batch_size: int
) -> None:
    """Answers all tasks by `generate`, one variant and one prompt length at a time.

    Args:
        model: With steering hooks.
        state: Of these hooks.
        tasks: What to answer.
        sampling: How tokens are chosen.
        pad: Padding id, for rows that have ended.
        batch_size: Largest number of rows.
    """
    with state.active(None):
        size = batch_size if rows_are_independent(model) else 1
    for batch in _batches(tasks.prompts, size):
        for variant in range(tasks.variants):
            places = tasks.places(batch)[variant * len(batch) : (variant + 1) * len(batch)]
            ids = torch.tensor([list(tasks.prompts[index]) for index in batch], device=input_device(model))
            columns = ids.shape[1]
            chosen = replace(sampling, temperature=tasks.temperatures[places[0]])  # one per variant
            chooser = _Chooser(chosen, [tasks.seeds[place] for place in places], columns)
            config = GenerationConfig(
                max_new_tokens=max(tasks.limits[place] for place in places),
                do_sample=False,
                num_beams=1,
                num_return_sequences=1,
                eos_token_id=sorted(tasks.stop_ids) or None,
                pad_token_id=pad,
            )
            with state.active(tasks.plan(places, start=columns - 1)):
                rows = _generate(model, ids, config, custom_generate=partial(_decode, chooser=chooser))
            _record(tasks, places, rows[:, columns:].tolist())


def _generate(model: PreTrainedModel, ids: Tensor, config: GenerationConfig, **kwargs: Any) -> Any:  # noqa: ANN401
    mask = torch.ones_like(ids)  # the plan in force stays: a steerable model's own generate could replace it
    return GenerationMixin.generate(
        model,  # type: ignore[arg-type]
        ids,
        attention_mask=mask,
        generation_config=config,
        **kwargs,
    )


def rows_are_independent(model: PreTrainedModel) -> bool:
    """Whether the second token of a row comes from the same logits with another row beside it."""
    a, b, c = ordinary_ids(model)
    ids = torch.tensor([[a, b], [c, a]], device=input_device(model))
    config = GenerationConfig(
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    both, alone = (_generate(model, ids[:rows], config).logits[-1][0] for rows in (2, 1))
    return same_states(alone, both)


def _decode(
    model: PreTrainedModel, input_ids: Tensor, logits_processor: object, chooser: _Chooser, **kwargs: Any
) -> Any:  # noqa: ANN401
    """Transformers' plain decoding loop, with our choice of tokens in place of the model's processors."""
    return type(model)._sample(  # type: ignore[attr-defined]
        model, input_ids, logits_processor=LogitsProcessorList([chooser]), **kwargs
    )


def _record(tasks: Tasks, places: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
    """Token by token, as long as a row has not ended."""
    running = list(range(len(places)))
    for column in zip(*rows, strict=True):
        if not running:
            return
        ended = tasks.record([column[row] for row in running], [places[row] for row in running])
        running = [row for position, row in enumerate(running) if position not in ended]


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of prompts of one length, the longest first, at most `size` together."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for _, group in groupby(order, key=lambda index: len(prompts[index])):
        indices = list(group)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))
