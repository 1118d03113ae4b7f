"""Choosing control layers and strengths per criterion by a reward, without training (Icon², appendix J)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, decode_answer, encode_prompt, pad_token_id, refuse_one_text
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.calibration import unlimited

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Reward = Callable[[Sequence[Instruction], Sequence[str]], Sequence[float]]
"""Scores answers to prompts; higher is better. A reward model, a judge, or a rule."""

STRENGTHS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
"""Absolute strengths tried on either side, in the directions' unit."""

_RIGHT = 0.9  # appendix J: the chosen side must win this share


@dataclass(frozen=True)
class Trial:
    """Mean reward of one steering of one criterion.

    Args:
        criterion: Its name.
        layers: Control layers tried.
        strength: Strength tried; negative on the rejected side.
        reward: Mean reward, in the reward's unit.
        right: For negative strengths, the share of rewards in which the best positive strength wins, among those
            that differ; NaN where none differs.
    """

    criterion: str
    layers: tuple[int, ...]
    strength: float
    reward: float
    right: float


@dataclass(frozen=True)
class Tuning:
    """Directions with tuned control layers and strengths, and every trial behind the choice."""

    directions: DirectionVectors
    trials: tuple[Trial, ...]


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    instructions: Dataset | Sequence[Instruction],
    reward: Reward,
    *,
    layers: Sequence[Sequence[int]] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    sampling: Sampling | None = None,
    samples: int = 1,
    full_grid: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    show_progress: bool = True,
) -> Tuning:
    """Picks control layers and strengths per criterion by the mean reward of a small sample (Icon², appendix J).

    The positive strength is the one with the highest mean reward. The negative one is, among those against which
    the positive side wins at least 0.9 of the rewards that differ, the one with the highest mean reward: a small
    gap trains more stably. Layers are searched first at the middle strength of either side, by the gap between the
    two, and the strengths then at the best two sets of layers.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        directions: To be tuned; all their criteria are.
        instructions: About 100. Rows with a `criterion` serve that criterion alone, others serve all.
        reward: Scores (prompts, answers).
        layers: Sets of control layers to try; by default all pairs of neighbouring layers but the last one.
        strengths: Positive strengths to try, on either side of zero.
        sampling: How tokens are chosen.
        samples: Answers per instruction and strength; more make a small sample less noisy.
        full_grid: Whether to try all strengths at all layers.
        seed: Of the sampling noise, which all trials share.
        batch_size: Instructions per batch.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: If a criterion has no instruction, or a strength is not positive.
    """
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths must be positive (both signs are tried), got {list(strengths)}")
    candidates = [tuple(item) for item in layers or _neighbours(directions)]
    trials: list[Trial] = []
    tuned, ranges = {}, {}
    with tqdm(directions.names, desc="tuning", disable=not show_progress) as names:
        for name in names:
            bench = _Bench(
                model, tokenizer, directions, reward, sampling or Sampling(), batch_size, name,
                _repeated(_prompts_for(name, instructions), samples), seed,
            )  # fmt: skip
            finalists = candidates if full_grid else _best_layers(bench, candidates, strengths)
            grid = [(chosen, bench.trials(chosen, strengths)) for chosen in finalists]
            chosen, found = max(grid, key=lambda item: _quality(item[1]))
            trials += [trial for _, found in grid for trial in found]
            tuned[name] = chosen
            positive, negative = pick_strengths(found)
            ranges[name] = StrengthRange(positive.strength, negative.strength)
    result = directions.with_control_layers(tuned).with_strengths(ranges)
    return Tuning(result, tuple(trials))


@dataclass(frozen=True)
class _Bench:
    """Measures the reward of one criterion's steerings on a fixed sample."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    directions: DirectionVectors
    reward: Reward
    sampling: Sampling
    batch_size: int
    name: str
    prompts: list[Instruction]
    seed: int

    def trials(self, layers: tuple[int, ...], strengths: Sequence[float]) -> list[Trial]:
        """Trials of all strengths on both sides at one set of layers, from one prefill."""
        signed = [*strengths, *(-strength for strength in strengths)]
        rewards = self._rewards(layers, signed)  # (V, N)
        best = rewards[: len(strengths)].mean(1).argmax()
        return [
            Trial(self.name, layers, strength, float(row.mean()), _share_right(rewards[best], row))
            for strength, row in zip(signed, rewards, strict=True)
        ]

    def _rewards(self, layers: tuple[int, ...], strengths: Sequence[float]) -> Tensor:
        answers = generate_variants(
            self.model,
            [encode_prompt(self.tokenizer, prompt) for prompt in self.prompts],
            [[{self.name: strength}] * len(self.prompts) for strength in strengths],
            sampling=self.sampling,
            seeds=[[row_seed(self.seed, str(row)) for row in range(len(self.prompts))]] * len(strengths),
            pad=pad_token_id(self.tokenizer),
            directions=unlimited(self.directions.with_control_layers({self.name: layers})),
            batch_size=self.batch_size,
        )
        texts = [[decode_answer(self.tokenizer, item.ids) for item in side] for side in answers]
        return torch.tensor([list(map(float, self.reward(self.prompts, side))) for side in texts])


def pick_strengths(trials: Sequence[Trial]) -> tuple[Trial, Trial]:
    """The positive and the negative strength of appendix J."""
    positive = max((trial for trial in trials if trial.strength > 0), key=lambda trial: trial.reward)
    negatives = [trial for trial in trials if trial.strength < 0]
    right = [trial for trial in negatives if trial.right >= _RIGHT]
    if right:
        return positive, max(right, key=lambda trial: trial.reward)
    logger.warning(
        "%s at layers %s: no negative strength loses to the positive side %.0f %% of the time; the pairs of this "
        "criterion will often be wrong. Try other layers, other strengths, or pooling='response'.",
        positive.criterion,
        positive.layers,
        100 * _RIGHT,
    )
    return positive, max(negatives, key=lambda trial: (trial.right == trial.right, trial.right))


def _quality(trials: Sequence[Trial]) -> tuple[bool, float]:
    """Order of layer sets: first those whose pairs are right, then by the reward of the chosen side."""
    positive, negative = pick_strengths(trials)
    return negative.right >= _RIGHT, positive.reward


def _best_layers(
    bench: _Bench, candidates: list[tuple[int, ...]], strengths: Sequence[float], keep: int = 2
) -> list[tuple[int, ...]]:
    """The sets of layers with the widest gap between the two signs at the middle strength."""
    middle = [sorted(strengths)[len(strengths) // 2]]

    def gap(layers: tuple[int, ...]) -> float:
        positive, negative = bench.trials(layers, middle)
        return positive.reward - negative.reward

    return sorted(candidates, key=gap, reverse=True)[:keep]


def _share_right(positive: Tensor, negative: Tensor) -> float:
    """P(positive > negative) among the rewards that differ."""
    differ = positive != negative
    return float((positive > negative)[differ].float().mean()) if bool(differ.any()) else float("nan")


def _neighbours(directions: DirectionVectors) -> list[tuple[int, ...]]:
    """All pairs of neighbouring layers without the model's last one, whose output only the head reads."""
    layers = [layer for layer in directions.config.layers if layer < directions.config.num_layers - 1]
    return [pair for pair in zip(layers, layers[1:], strict=False)] or [tuple(directions.config.layers)]


def _prompts_for(name: str, instructions: Dataset | Sequence[Instruction]) -> list[Instruction]:
    refuse_one_text(instructions)
    if not isinstance(instructions, Dataset):
        prompts = list(instructions)
    elif "criterion" in instructions.column_names:
        prompts = [row["prompt"] for row in instructions if row["criterion"] == name]
    else:
        prompts = list(instructions["prompt"])
    if not prompts:
        raise ValueError(
            f"no instruction to tune {name!r} on; route some to it, or tune directions.select([...])"
        )
    return prompts


def _repeated(prompts: list[Instruction], samples: int) -> list[Instruction]:
    return [prompt for prompt in prompts for _ in range(samples)]
