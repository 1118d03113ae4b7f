"""Several steerings of one prompt from one prefill: the engine behind pairs, samples and instructions.

The prompt up to its last token is never steered, so its keys and values serve every variant. All variants of all
prompts then decode as rows of one batch; a row that has ended leaves it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation.logits_process import TopPLogitsWarper

from hf_icon2.blocks import unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.cache import roomy_cache
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
        batch_size: Prompts per batch, so V times as many rows.
        progress: Called with the number of answers finished.

    Returns:
        V lists of N answers. Batches are formed by length, and an answer depends on its batch only through
        floating-point rounding.
    """
    for name, given in (("variants", variants), ("seeds", seeds)):
        if len(given) != len(variants) or any(len(row) != len(prompts) for row in given):
            raise ValueError(
                f"{name} must be {len(variants)} lists of {len(prompts)} entries, one per prompt"
            )
    ends = set(stop_ids) | _end_ids(model)
    engine = _Engine(unwrap(model), *steered_trunk(model), sampling, pad, ends, progress)
    if directions is not None:
        directions.check_model(engine.state.hidden_size, engine.state.num_layers)
    results: list[list[Completion]] = [[Completion([], "length")] * len(prompts) for _ in variants]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        steerings = [row[index] for row in variants for index in batch]
        plan = None
        if any(steerings):
            if directions is None:
                raise ValueError("a variant is steered, so directions are needed; pass directions=...")
            plan = plan_steering(directions, steerings, start=0, masked=False)
        rows = engine.run(
            [prompts[index] for index in batch], plan, [row[index] for row in seeds for index in batch]
        )
        for place, completion in enumerate(rows):
            results[place // len(batch)][batch[place % len(batch)]] = completion
    return results


@dataclass
class _Rows:
    """The rows still decoding."""

    places: list[int]  # which result each row writes
    seeds: list[int]
    tokens: Tensor  # last token, (R, 1)
    positions: Tensor  # its position, (R, 1)
    mask: Tensor | None  # (R, T), None where nothing is padded
    plan: Plan | None


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
    def run(self, prompts: list[Sequence[int]], plan: Plan | None, seeds: list[int]) -> list[Completion]:
        """Decodes all variants of one batch of prompts; rows are variant-major."""
        # 1) the prompts without their last token, once
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
        # 2) one row per variant and prompt
        index = torch.arange(len(prompts), device=ids.device).repeat(len(seeds) // len(prompts))
        cache.reorder_cache(index)
        rows = _Rows(
            places=list(range(len(seeds))),
            seeds=seeds,
            tokens=ids[index, -1:],
            positions=positions[index, -1:],
            mask=mask[index] if padded else None,
            plan=plan,
        )
        # 3) token by token
        answers: list[list[int]] = [[] for _ in seeds]
        reasons = ["length"] * len(seeds)
        for step in range(self.sampling.max_new_tokens):
            chosen = self._choose(self._logits(rows, cache), rows.seeds, step)
            ended = self._record(chosen.tolist(), rows.places, answers, reasons)
            if len(ended) == len(rows.places):
                break
            rows = self._advance(rows, chosen)
            if ended:
                rows = _drop(rows, cache, ended)
        self.progress(reasons.count("length"))
        return [Completion(ids, reason) for ids, reason in zip(answers, reasons, strict=True)]

    def _logits(self, rows: _Rows, cache: object) -> Tensor:
        """Next-token logits, (R, V) float32."""
        with self.state.active(rows.plan):
            output = self.model(
                input_ids=rows.tokens,
                attention_mask=rows.mask,
                past_key_values=cache,
                use_cache=True,
                **self._positions(rows.positions),
            )
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def _choose(self, logits: Tensor, seeds: list[int], step: int) -> Tensor:
        """Temperature and top-p first, then noise, then arg-max; (R,)."""
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        scores = logits / self.sampling.temperature
        if self.warp is not None:
            scores = self.warp(None, scores)
        unique = list(dict.fromkeys(seeds))
        noise = gumbel_noise(unique, step, scores.shape[-1], scores.device)
        if len(unique) < len(seeds):
            place = {seed: row for row, seed in enumerate(unique)}
            noise = noise[torch.tensor([place[seed] for seed in seeds], device=scores.device)]
        return scores.add_(noise).argmax(-1)

    def _record(
        self, chosen: list[int], places: list[int], answers: list[list[int]], reasons: list[str]
    ) -> set[int]:
        """Appends the tokens and returns the rows that have ended."""
        ended = set()
        for row, (token, place) in enumerate(zip(chosen, places, strict=True)):
            if token in self.stop_ids:
                reasons[place] = "stop"
                ended.add(row)
            else:
                answers[place].append(token)
        if ended:
            self.progress(len(ended))
        return ended

    def _advance(self, rows: _Rows, chosen: Tensor) -> _Rows:
        mask = rows.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return _Rows(rows.places, rows.seeds, chosen[:, None], rows.positions + 1, mask, rows.plan)

    def _positions(self, positions: Tensor) -> dict[str, Tensor]:
        return {"position_ids": positions} if self.takes_positions else {}


def _drop(rows: _Rows, cache: object, ended: set[int]) -> _Rows:
    """The rows that go on; the last ones move into the gaps, so that the cache has little to copy."""
    left = len(rows.places) - len(ended)
    last = [row for row in range(left, len(rows.places)) if row not in ended]
    kept = [last.pop() if row in ended else row for row in range(left)]
    index = torch.tensor(kept, device=rows.tokens.device)
    cache.reorder_cache(index)  # type: ignore[attr-defined]
    return _Rows(
        places=[rows.places[row] for row in kept],
        seeds=[rows.seeds[row] for row in kept],
        tokens=rows.tokens[index],
        positions=rows.positions[index],
        mask=None if rows.mask is None else rows.mask[index],
        plan=None if rows.plan is None else rows.plan.select(index),
    )


def _end_ids(model: PreTrainedModel) -> set[int]:
    ends = unwrap(model).generation_config.eos_token_id
    if ends is None:
        return set()
    return {ends} if isinstance(ends, int) else set(ends)
