"""Several steerings of one prompt from one prefill: the engine behind pairs, samples and instructions.

The prompt up to its last token is never steered, so its keys and values serve every variant. All variants of many
prompts decode as rows of one batch; a row that has ended leaves it, and waiting prompts take the place of those.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.generation.logits_process import TopPLogitsWarper

from hf_icon2.blocks import unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.cache import joinable, joined, roomy_cache
from hf_icon2.steering.hooks import SteeringState, steered_trunk
from hf_icon2.steering.noise import gumbel_noise
from hf_icon2.steering.plans import Plan, RowSteering, plan_steering


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        max_new_tokens: Longest answer.
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Keeps the smallest set of tokens with this probability mass, 0 to 1.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")


class Completion(NamedTuple):
    """One answer: token ids without the end token, and "stop" or "length"."""

    ids: list[int]
    finish_reason: str


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
    if directions is None and any(map(any, variants)):
        raise ValueError("a variant is steered, so directions are needed; pass directions=...")
    ends = set(stop_ids) | _end_ids(model)
    engine = _Engine(unwrap(model), *steered_trunk(model), sampling, pad, ends, progress)
    if directions is not None:
        directions.check_model(engine.state.hidden_size, engine.state.num_layers)
    flat = (list(chain(*rows)) for rows in (variants, seeds, limits))
    tasks = _Tasks(prompts, directions, *flat)
    engine.run(tasks, batch_size)
    answers = [Completion(ids, reason) for ids, reason in zip(tasks.answers, tasks.reasons, strict=True)]
    return [answers[row * len(prompts) : (row + 1) * len(prompts)] for row in range(len(variants))]


@dataclass
class _Tasks:
    """What to answer, and the answers so far; answer v * N + n is variant v of prompt n."""

    prompts: Sequence[Sequence[int]]
    directions: DirectionVectors | None
    steerings: list[RowSteering | None]
    seeds: list[int]
    limits: list[int]

    def __post_init__(self) -> None:
        self.variants = len(self.seeds) // max(len(self.prompts), 1)
        self.answers: list[list[int]] = [[] for _ in self.seeds]
        self.reasons = ["length"] * len(self.seeds)

    def places(self, batch: Sequence[int]) -> list[int]:
        """The answers to the prompts of a batch, variant by variant."""
        return [row * len(self.prompts) + index for row in range(self.variants) for index in batch]

    def plan(self, places: Sequence[int]) -> Plan | None:
        """The steering of these rows, all of whose tokens are steered."""
        steerings = [self.steerings[place] for place in places]
        if self.directions is None or not any(steerings):
            return None
        return plan_steering(self.directions, steerings, start=0, masked=False)


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
    stop_ids: set[int]
    progress: Callable[[int], object]

    def __post_init__(self) -> None:
        if self.model._is_stateful:
            raise ValueError(
                f"{type(self.model).__name__} keeps no reorderable cache; it is not supported here"
            )
        self.takes_positions = "position_ids" in inspect.signature(self.trunk.forward).parameters
        self.warp = TopPLogitsWarper(self.sampling.top_p) if self.sampling.top_p < 1 else None

    @torch.no_grad()
    def run(self, tasks: _Tasks, batch_size: int) -> None:
        """Answers all tasks; waiting prompts come in whenever half of the rows have ended."""
        waiting = sorted(range(len(tasks.prompts)), key=lambda index: len(tasks.prompts[index]))
        rows: _Rows | None = None
        while waiting or rows:
            free = batch_size - (-(-len(rows.places) // tasks.variants) if rows else 0)
            if waiting and 2 * free >= batch_size and (rows is None or joinable(rows.cache)):
                batch = [waiting.pop() for _ in range(min(free, len(waiting)))]
                rows = self._join(rows, self._prefill(tasks, batch), tasks)
            assert rows is not None
            chosen = self._choose(self._logits(rows), tasks, rows.places)
            ended = self._record(chosen.tolist(), rows.places, tasks)
            rows = None if len(ended) == len(rows.places) else _advance(rows, chosen, ended)

    def _prefill(self, tasks: _Tasks, batch: list[int]) -> _Rows:
        """Runs the prompts without their last token, once, and makes a row per variant and prompt."""
        prompts = [tasks.prompts[index] for index in batch]
        ids, mask = (tensor.to(self.model.device) for tensor in pad_batch(prompts, self.pad, side="left"))
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
                    **self._positions(positions[:, :-1]),
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

    def _join(self, rows: _Rows | None, new: _Rows, tasks: _Tasks) -> _Rows:
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
                **self._positions(rows.positions),
            )
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def _choose(self, logits: Tensor, tasks: _Tasks, places: list[int]) -> Tensor:
        """Temperature and top-p first, then noise, then arg-max; (R,)."""
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        scores = logits / self.sampling.temperature
        if self.warp is not None:
            scores = self.warp(None, scores)
        keys = [(tasks.seeds[place], len(tasks.answers[place])) for place in places]
        unique = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        seeds, steps = zip(*unique, strict=True)
        noise = gumbel_noise(seeds, steps, scores.shape[-1], scores.device)
        if len(unique) < len(keys):
            noise = noise[torch.tensor([unique[key] for key in keys], device=scores.device)]
        return scores.add_(noise).argmax(-1)

    def _record(self, chosen: list[int], places: list[int], tasks: _Tasks) -> set[int]:
        """Appends the tokens and returns the rows that have ended."""
        ended = set()
        for row, (token, place) in enumerate(zip(chosen, places, strict=True)):
            if token in self.stop_ids:
                tasks.reasons[place] = "stop"
                ended.add(row)
                continue
            tasks.answers[place].append(token)
            if len(tasks.answers[place]) == tasks.limits[place]:
                ended.add(row)
        if ended:
            self.progress(len(ended))
        return ended

    def _positions(self, positions: Tensor) -> dict[str, Tensor]:
        return {"position_ids": positions} if self.takes_positions else {}


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
