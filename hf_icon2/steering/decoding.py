"""Several steerings of one prompt from one prefill: the engine behind pairs, samples and instructions.

The prompt up to its last token is never steered, so its keys and values serve every variant. All variants of many
prompts decode as rows of one batch; a row that has ended leaves it, and waiting prompts take the place of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from hf_icon2.blocks import input_device, refuse_soft_prompt, unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.cache import joinable, joined, roomy_cache
from hf_icon2.steering.hooks import SteeringState, steered_trunk
from hf_icon2.steering.padding import try_padding
from hf_icon2.steering.plans import Plan, RowSteering
from hf_icon2.steering.sampling import Completion, Sampling, Tasks
from hf_icon2.steering.separate_runs import run_separately, shares_prefill


def generate_variants(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Sequence[RowSteering | None]],
    *,
    sampling: Sampling,
    seeds: Sequence[Sequence[int]],
    pad: int,
    directions: DirectionVectors | None = None,
    stop_ids: Sequence[int] = (),
    limits: Sequence[Sequence[int]] | None = None,
    temperatures: Sequence[float] | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda _done: None,
) -> list[list[Completion]]:
    """Answers N prompts under V steerings each, prefilling every prompt once.

    Args:
        model: Causal LM, or a PEFT model around one.
        prompts: N lists of token ids, none empty.
        variants: V lists of N steerings; None is unsteered.
        sampling: How tokens are chosen.
        seeds: V lists of N row seeds. Variants with equal seeds share their sampling noise.
        pad: Padding id.
        directions: Needed where any variant is steered.
        stop_ids: Ids that end an answer, beside the model's own end-of-sequence ids.
        limits: V lists of N longest answers, where rows differ; `sampling.max_new_tokens` for all by default.
        temperatures: Of the V variants, where they differ; `sampling.temperature` for all by default.
        batch_size: Prompts decoded at a time, so V times as many rows at most.
        progress: Called with the number of answers finished.

    Returns:
        V lists of N answers. The longest prompts come first, and an answer depends on the rows beside it only
        through floating-point rounding.
    """
    limits = [[sampling.max_new_tokens] * len(prompts)] * len(variants) if limits is None else limits
    for name, given in (("variants", variants), ("seeds", seeds), ("limits", limits)):
        if len(given) != len(variants) or any(len(row) != len(prompts) for row in given):
            raise ValueError(
                f"{name} must be {len(variants)} lists of {len(prompts)} entries, one per prompt"
            )
    temperatures = [sampling.temperature] * len(variants) if temperatures is None else temperatures
    if len(temperatures) != len(variants) or min(temperatures, default=0) < 0:
        raise ValueError(
            f"temperatures must be {len(variants)} numbers of 0 (greedy) or more, one per variant, got {temperatures}"
        )
    if directions is None and any(map(any, variants)):
        raise ValueError("a variant is steered, so directions are needed; pass directions=...")
    refuse_soft_prompt(model)
    ends = set(stop_ids) | _end_ids(model)
    inner, (trunk, state) = unwrap(model), steered_trunk(model)
    if directions is not None:
        state.check(directions)
    flat = [*chain(*variants)], [*chain(*seeds)], [*chain(*limits)]
    heat = [temperature for temperature in temperatures for _ in prompts]
    tasks = Tasks(prompts, directions, *flat, heat, ends, progress)
    if shares_prefill(inner):
        _Engine(inner, trunk, state, sampling, pad).run(tasks, batch_size)
    else:
        run_separately(inner, state, tasks, sampling, pad, batch_size)
    return tasks.completions()


@dataclass
class _Rows:
    """The rows still decoding."""

    places: list[int]  # which answer each row writes
    tokens: Tensor  # last token, (R, 1)
    positions: Tensor  # its position, (R, 1)
    mask: Tensor | None  # (R, T), None where nothing is padded
    plan: Plan | None
    cache: DynamicCache  # T - 1 columns


@dataclass
class _Engine:
    model: PreTrainedModel
    trunk: nn.Module
    state: SteeringState
    sampling: Sampling
    pad: int

    def __post_init__(self) -> None:
        with self.state.active(None):
            self.padding = try_padding(self.model, self.trunk, self.pad)

    @torch.no_grad()
    def run(self, tasks: Tasks, batch_size: int) -> None:
        """Answers all tasks; waiting prompts come in whenever half of the rows have ended."""
        waiting = sorted(range(len(tasks.prompts)), key=lambda index: len(tasks.prompts[index]))
        rows: _Rows | None = None
        while waiting or rows:
            free = batch_size - (-(-len(rows.places) // tasks.variants) if rows else 0)
            if waiting and 2 * free >= batch_size and (rows is None or self._joins(rows)):
                batch = self._next_batch(waiting, free, tasks)
                rows = self._join(rows, self._prefill(tasks, batch), tasks)
            assert rows is not None
            seeds = [tasks.seeds[place] for place in rows.places]
            steps = [len(tasks.answers[place]) for place in rows.places]
            heat = [tasks.temperatures[place] for place in rows.places]
            chosen = self.sampling.choose(self._logits(rows), seeds, steps, heat)
            ended = tasks.record(chosen.tolist(), rows.places)
            rows = None if len(ended) == len(rows.places) else _advance(rows, chosen, ended)

    def _joins(self, rows: _Rows) -> bool:
        """Whether other rows can come beside these, which means padding."""
        return self.padding.harmless and joinable(rows.cache)

    def _next_batch(self, waiting: list[int], size: int, tasks: Tasks) -> list[int]:
        """Takes at most `size` prompts off the end of `waiting`; where padding does harm, of one length only."""
        if not self.padding.harmless:
            lengths = [len(tasks.prompts[index]) for index in waiting]
            size = min(size, lengths.count(lengths[-1]))
        return [waiting.pop() for _ in range(min(size, len(waiting)))]

    def _prefill(self, tasks: Tasks, batch: list[int]) -> _Rows:
        """Runs the prompts without their last token, once, and makes a row per variant and prompt."""
        prompts = [tasks.prompts[index] for index in batch]
        device = input_device(self.model)
        ids, mask = (tensor.to(device) for tensor in pad_batch(prompts, self.pad, side="left"))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padded = not bool(mask.all())
        cache = roomy_cache(self.model)
        if ids.shape[1] > 1:
            with self.state.active(None):
                self.trunk(
                    input_ids=ids[:, :-1],
                    attention_mask=mask[:, :-1] if padded else None,
                    past_key_values=cache,
                    use_cache=True,
                    **self.padding.arguments(positions[:, :-1]),
                )
        places = tasks.places(batch)
        index = torch.arange(len(batch), device=ids.device).repeat(len(places) // len(batch))
        cache.reorder_cache(index)  # type: ignore[arg-type]
        return _Rows(
            places=places,
            tokens=ids[index, -1:],
            positions=positions[index, -1:],
            mask=mask[index] if padded else None,
            plan=tasks.plan(places),
            cache=cache,
        )

    def _join(self, rows: _Rows | None, new: _Rows, tasks: Tasks) -> _Rows:
        """Puts rows side by side, each filled up on the left; columns that are padding in all rows go."""
        if rows is None:
            return new
        positions = torch.cat([rows.positions, new.positions])
        width = int(positions.max()) + 1
        mask = (torch.arange(width, device=positions.device) >= width - 1 - positions).long()
        places = rows.places + new.places
        return _Rows(
            places=places,
            tokens=torch.cat([rows.tokens, new.tokens]),
            positions=positions,
            mask=None if bool(mask.all()) else mask,
            plan=tasks.plan(places),
            cache=joined(rows.cache, new.cache, len(places), width - 1),
        )

    def _logits(self, rows: _Rows) -> Tensor:
        """Next-token logits, (R, V) float32."""
        with self.state.active(rows.plan):
            output = self.model(
                input_ids=rows.tokens,
                attention_mask=rows.mask,
                past_key_values=rows.cache,
                use_cache=True,
                **self.padding.arguments(rows.positions),
            )
        logits: Tensor = output.logits
        return logits[:, -1].float()


def _advance(rows: _Rows, chosen: Tensor, ended: set[int]) -> _Rows:
    """The rows that go on, one token later; the last ones move into gaps, so that the cache has little to copy."""
    mask = rows.mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    rows = replace(rows, tokens=chosen[:, None], positions=rows.positions + 1, mask=mask)
    if not ended:
        return rows
    left = len(rows.places) - len(ended)
    last = [row for row in range(left, len(rows.places)) if row not in ended]
    kept = [last.pop() if row in ended else row for row in range(left)]
    index = torch.tensor(kept, device=chosen.device)
    rows.cache.reorder_cache(index)  # type: ignore[arg-type]
    return _Rows(
        places=[rows.places[row] for row in kept],
        tokens=rows.tokens[index],
        positions=rows.positions[index],
        mask=None if rows.mask is None else rows.mask[index],
        plan=None if rows.plan is None else rows.plan.select(index),
        cache=rows.cache,
    )


def _end_ids(model: PreTrainedModel) -> set[int]:
    ends = unwrap(model).generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


__all__ = ["Completion", "Sampling", "generate_variants"]
