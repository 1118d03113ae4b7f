"""A run in one value: what to align, and the settings of every stage. Needs no torch; reads YAML or JSON.

Each section is a frozen dataclass whose fields become command-line flags (`--pairs.noise independent`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_icon2.criteria import DEFAULT_CRITERIA, Criterion, named
from hf_icon2.settings import PlainRecipe, build, check_settings, read_settings, setting
from hf_icon2.storage import shortened

TOY = "toy"
"""Name of the bundled assistant, in the place of a model id or path."""


@dataclass(frozen=True)
class Extraction:
    """How directions are measured."""

    instructions: str | None = setting(
        None, "JSONL file or Hub dataset; the model's own instructions by default"
    )
    column: str = setting("instruction", "column of that dataset with the instruction")
    number: int = setting(256, "instructions to measure on")
    pooling: Literal["last", "response"] = setting(
        "last", "states to contrast: last (the paper's), or response"
    )
    method: Literal["pca", "mean_difference", "centred_pca"] = setting(
        "pca", "pca, mean_difference or centred_pca"
    )
    batch_size: int = setting(32, "rows per forward pass")


@dataclass(frozen=True)
class Synthesis:
    """How the model writes its own instructions, or which ones stand in for them."""

    instructions: str | None = setting(
        None, "JSONL file or Hub dataset, in place of the model's own instructions"
    )
    column: str = setting("instruction", "column of that dataset with the instruction")
    number: int = setting(1000, "unique instructions to ask for")
    turns: int = setting(1, "user turns of each; with 2 or more the model writes whole conversations")
    temperature: float = setting(1.0, "of the sampling")
    top_p: float = setting(1.0, "of the sampling")
    max_new_tokens: int = setting(128, "longest instruction, or user turn of a conversation")
    batch_size: int = setting(64, "rows per batch")
    near_duplicates: bool = setting(
        True, "keep near-duplicates; false drops them (not for templated languages)"
    )


@dataclass(frozen=True)
class Filter:
    """Which instructions are kept, and which criteria they serve."""

    score: Literal["cosine", "dot", "standardized"] = setting(
        "standardized", "standardized (z-scores per criterion), cosine, or dot (the paper's)"
    )
    keep: float = setting(
        0.8, "share of the instructions to keep, those with the highest score per criterion"
    )
    criteria_per_instruction: int = setting(1, "how many criteria an instruction may serve")


@dataclass(frozen=True)
class Tuning:
    """How control layers and strengths are chosen."""

    reward: str | None = setting(
        None, "reward model id; none: strengths are half and minus a quarter of the KL bound"
    )
    instructions: int = setting(100, "instructions the reward may see")
    samples: int = setting(1, "answers per instruction and strength")
    strengths: tuple[float, ...] = setting((0.05, 0.1, 0.15, 0.2, 0.3, 0.4), "absolute strengths to try")
    max_kl: float = setting(1.0, "nats: 95th percentile of the per-token KL at the safe maximum")


@dataclass(frozen=True)
class Pairs:
    """How the two answers of a pair come about."""

    strategy: Literal[
        "icon2", "icon2-independent", "direct-prompting", "sampling-ranking", "self-rewarding", "self-refine"
    ] = setting(
        "icon2",
        "icon2, icon2-independent, direct-prompting, sampling-ranking, self-rewarding or self-refine",
    )
    samples: int | None = setting(
        None, "answers per instruction where several are drawn (5; for self-refine 3)"
    )
    per_instruction: int = setting(1, "pairs drawn per instruction, each with its own seed")
    noise: Literal["shared", "independent"] = setting(
        "shared", "of icon2: shared (ours) or independent (the paper's; the same as icon2-independent)"
    )
    temperature: float = setting(1.0, "of the sampling")
    top_p: float = setting(1.0, "of the sampling")
    max_new_tokens: int = setting(256, "longest answer")
    batch_size: int = setting(32, "instructions per batch")
    shard: int = setting(1024, "instructions per file; what an interruption can lose")


@dataclass(frozen=True)
class Training:
    """DPO on the pairs; None leaves the paper's setting (see Icon2DPOConfig)."""

    beta: float | None = setting(None, "inverse temperature of the implicit reward")
    learning_rate: float | None = setting(None, "peak learning rate")
    epochs: float = setting(1.0, "passes over the pairs")
    max_steps: int = setting(-1, "optimiser steps; overrides epochs if positive")
    batch_size: int = setting(8, "pairs per device and step")
    accumulation: int = setting(1, "batches per optimiser step")
    max_length: int = setting(1024, "longest prompt plus answer in tokens")
    held_out: float = setting(0.02, "share of the instructions whose pairs are held out")
    evaluations: int = setting(10, "evaluations on held-out pairs; training stops early when they get worse")
    lora_rank: int = setting(0, "rank of a LoRA adapter; 0 trains all weights")


@dataclass(frozen=True)
class Evaluation:
    """How the result is measured."""

    prompts: str | None = setting(
        None,
        "JSONL file or Hub dataset of held-out prompts; for the toy `validation` or its test set (default)",
    )
    column: str = setting("instruction", "column of that dataset with the prompt")
    turns: int = setting(
        1,
        "user turns of each prompt; the earlier ones are other held-out prompts, with the model's own answers",
    )
    samples: int = setting(1, "answers per prompt")
    temperature: float = setting(1.0, "of the sampling")
    max_new_tokens: int = setting(256, "longest answer")
    batch_size: int = setting(64, "rows per batch")


@dataclass(frozen=True)
class Recipe(PlainRecipe):
    """Everything that determines a run but its output folder."""

    model: str = setting(TOY, "model id or path; `toy` is the bundled assistant")
    revision: str | None = setting(None, "commit, tag or branch of the model")
    seed: int = setting(0, "of everything that is random")
    rounds: int = setting(
        1,
        "times over; each round measures, synthesises, pairs and trains on from the model of the one before",
    )
    criteria: tuple[Criterion, ...] = setting(DEFAULT_CRITERIA[1:], "criteria to align to")
    extraction: Extraction = field(default_factory=Extraction)
    synthesis: Synthesis = field(default_factory=Synthesis)
    filter: Filter = field(default_factory=Filter)
    tuning: Tuning = field(default_factory=Tuning)
    pairs: Pairs = field(default_factory=Pairs)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        named(self.criteria)
        checks = {
            "rounds must be at least 1": self.rounds >= 1,
            "extraction.number must be at least 2": self.extraction.number >= 2,
            "synthesis.number must be at least 1": self.synthesis.number >= 1,
            "synthesis.turns and evaluation.turns must be at least 1": min(
                self.synthesis.turns, self.evaluation.turns
            )
            >= 1,
            "synthesis.turns must be 1 where synthesis.instructions are given (which may be conversations)": (
                self.synthesis.turns == 1 or self.synthesis.instructions is None
            ),
            "filter.keep must be above 0 and at most 1": 0 < self.filter.keep <= 1,
            "filter.criteria_per_instruction must be 1 to the number of criteria": 1
            <= self.filter.criteria_per_instruction
            <= len(self.criteria),
            "tuning.instructions must be at least 1": self.tuning.instructions >= 1,
            "pairs.noise must be shared or independent": self.pairs.noise in ("shared", "independent"),
            "pairs.noise must be shared (the default) where pairs.strategy does not begin with icon2": self.pairs.noise
            == "shared"
            or self.pairs.strategy.startswith("icon2"),
            "pairs.samples must be at least 1, and 2 where samples are ranked": self.pairs.samples is None
            or self.pairs.samples
            >= (2 if self.pairs.strategy in ("sampling-ranking", "self-rewarding") else 1),
            "pairs.strategy sampling-ranking needs tuning.reward, the id of a reward model": self.pairs.strategy
            != "sampling-ranking"
            or self.model == TOY
            or self.tuning.reward is not None,
            "pairs.per_instruction must be at least 1": self.pairs.per_instruction >= 1,
            "training.held_out must be at least 0 and below 1": 0 <= self.training.held_out < 1,
        }
        check_settings(checks)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from plain data; missing settings keep their defaults, unknown ones are refused."""
        values = dict(data)
        if "criteria" in values:
            items = values["criteria"]
            values["criteria"] = tuple(
                _criterion(item) for item in (items if isinstance(items, (list, tuple)) else [items])
            )
        recipe: Recipe = build(cls, values)
        return recipe

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Reads a `.yaml` or `.json` recipe."""
        return cls.from_dict(read_settings(path))


def _criterion(item: str | Mapping[str, str] | Criterion) -> Criterion:
    """A criterion by the name of a default one, or spelt out."""
    if isinstance(item, Criterion):
        return item
    if isinstance(item, str):
        known = named(DEFAULT_CRITERIA)
        if item not in known:
            raise ValueError(
                f"unknown criterion {item!r}; built in are {', '.join(known)}; give others with name, positive, "
                "negative"
            )
        return known[item]
    if not isinstance(item, Mapping) or set(item) != {"name", "positive", "negative"}:
        raise ValueError(
            f"a criterion is the name of a built-in one, or has name, positive, negative; got {shortened(item)}"
        )
    return Criterion(**item)
