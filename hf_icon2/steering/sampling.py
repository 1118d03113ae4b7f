"""How the next tokens are chosen, and what is asked of a decoding: the answers of many prompts under many steerings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.generation.logits_process import TopPLogitsWarper

from hf_icon2.directions.vectors import DirectionVectors
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

    def choose(
        self,
        logits: Tensor,
        seeds: Sequence[int],
        steps: Sequence[int],
        temperatures: Sequence[float] | None = None,
    ) -> Tensor:
        """The next token of each row: temperature and top-p first, then noise, then arg-max.

        Args:
            logits: (R, V) float32.
            seeds: Of the R rows; rows with equal seeds at equal steps share their noise.
            steps: Number of tokens generated so far, by each row.
            temperatures: Of the R rows, where they differ.

        Returns:
            (R,) token ids.
        """
        own = temperatures or [self.temperature] * len(logits)
        if len({*own}) == 1:
            return self._choose_at(own[0], logits, seeds, steps)
        chosen = logits.new_empty(len(logits), dtype=torch.long)
        for temperature in sorted({*own}):
            rows = [row for row, value in enumerate(own) if value == temperature]
            index = torch.tensor(rows, device=logits.device)
            keys = [seeds[row] for row in rows], [steps[row] for row in rows]
            chosen[index] = self._choose_at(temperature, logits[index], *keys)
        return chosen

    def _choose_at(
        self, temperature: float, logits: Tensor, seeds: Sequence[int], steps: Sequence[int]
    ) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        scores = logits / temperature
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(None, scores)
        keys = list(zip(seeds, steps, strict=True))
        unique = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        row_seeds, row_steps = zip(*unique, strict=True)
        noise = gumbel_noise(row_seeds, row_steps, scores.shape[-1], scores.device)
        if len(unique) < len(keys):
            noise = noise[torch.tensor([unique[key] for key in keys], device=scores.device)]
        return scores.add_(noise).argmax(-1)


class Completion(NamedTuple):
    """One answer: token ids without the end token, and "stop" or "length"."""

    ids: list[int]
    finish_reason: str


@dataclass
class Tasks:
    """What to answer, and the answers so far; answer v * N + n is variant v of prompt n.

    Args:
        prompts: N lists of token ids.
        directions: Needed where anything is steered.
        steerings: Of each answer.
        seeds: Of each answer.
        limits: Longest length of each answer.
        temperatures: Of each answer.
        stop_ids: Ids that end an answer.
        progress: Called with the number of answers finished.
    """

    prompts: Sequence[Sequence[int]]
    directions: DirectionVectors | None
    steerings: list[RowSteering | None]
    seeds: list[int]
    limits: list[int]
    temperatures: list[float]
    stop_ids: set[int]
    progress: Callable[[int], object]
    answers: list[list[int]] = field(init=False)
    reasons: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.variants = len(self.seeds) // max(len(self.prompts), 1)
        self.answers = [[] for _ in self.seeds]
        self.reasons = ["length"] * len(self.seeds)

    def places(self, batch: Sequence[int]) -> list[int]:
        """The answers to the prompts of a batch, variant by variant."""
        return [row * len(self.prompts) + index for row in range(self.variants) for index in batch]

    def plan(self, places: Sequence[int], start: int = 0) -> Plan | None:
        """The steering of these rows from a column on."""
        steerings = [self.steerings[place] for place in places]
        if self.directions is None or not any(steerings):
            return None
        return plan_steering(self.directions, steerings, start=start, masked=False)

    def record(self, chosen: Sequence[int], places: Sequence[int]) -> set[int]:
        """Appends a token to each answer and returns the rows that have ended."""
        ended = set()
        for row, (token, place) in enumerate(zip(chosen, places, strict=True)):
            if token in self.stop_ids:
                self.reasons[place] = "stop"
                ended.add(row)
                continue
            self.answers[place].append(token)
            if len(self.answers[place]) == self.limits[place]:
                ended.add(row)
        if ended:
            self.progress(len(ended))
        return ended

    def completions(self) -> list[list[Completion]]:
        """V lists of N answers."""
        answers = [Completion(ids, reason) for ids, reason in zip(self.answers, self.reasons, strict=True)]
        count = len(self.prompts)
        return [answers[row * count : (row + 1) * count] for row in range(self.variants)]
