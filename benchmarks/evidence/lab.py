"""The toy's laboratory: directions, instructions, pairs, DPO and answers, every step a call of the library.

The truth table judges (its reward is the share of an answer's behaviours that are right). Tuning sees it on at most
100 instructions, as in the quickstart; the strategies that rank samples see it where they ask for a reward.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from datasets import Dataset

from hf_icon2 import extract_directions
from hf_icon2.criteria import DEFAULT_CRITERIA
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.evaluation.answering import answer_prompts
from hf_icon2.steering.decoding import Sampling
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.consistency import filter_instructions, score_consistency
from hf_icon2.synthesis.instructions import synthesize_instructions
from hf_icon2.synthesis.tuning import tune
from hf_icon2.toy import grade, instructions, load_assistant, reward
from hf_icon2.toy.world import all_instructions, split_of

CRITERIA = {
    "General": ("general",),
    "3H": ("honesty", "harmlessness", "helpfulness"),
    "General + 3H": ("general", "honesty", "harmlessness", "helpfulness"),
}
ANSWERS, USER_TURNS = Sampling(max_new_tokens=48), Sampling(max_new_tokens=24)
RAW, TUNED_ON = 600, 100
STRENGTHS = (0.1, 0.15, 0.2, 0.3)
MIDDLE = (2, 3)  # the middle third of six layers


def truth(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    """The truth table as a reward."""
    return [reward(*both) for both in zip(prompts, answers, strict=True)]


def noisy_truth(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    """The truth table and an error of each answer's own, as of a reward model: right in 0.90 of the decisive pairs."""
    noise = (
        random.Random(f"{prompt}/{answer}").gauss(0, 0.3)
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    return [value + error for value, error in zip(truth(prompts, answers), noise, strict=True)]


@cache
def held_out() -> list[str]:
    return [item.text for item in instructions("test")]


@cache
def excluded() -> list[str]:
    """Prompts that no run may use: those to test and those to validate on."""
    return [item.text for item in all_instructions() if split_of(item) != "train"]


class Meter:
    """CPU seconds of what runs inside."""

    cpu = 0.0

    @contextmanager
    def __call__(self) -> Any:
        started = time.process_time()
        yield
        self.cpu += time.process_time() - started


# instructions ------------------------------------------------------------------------------------------------


def self_written(model: Any, tokenizer: Any, number: int, seed: int) -> list[str]:
    """Instructions that the model writes itself."""
    rows = synthesize_instructions(
        model,
        tokenizer,
        number,
        sampling=USER_TURNS,
        seed=seed,
        exclude=excluded(),
        near_duplicates=False,
        show_progress=False,
    )
    return list(rows["prompt"])


def raw_instructions(model: Any, tokenizer: Any, source: str, seed: int, number: int = RAW) -> list[str]:
    """Instructions of one of the sources: self-written, the world's own, or of one kind only."""
    if source == "self-written":
        return self_written(model, tokenizer, number, row_seed(seed, "instructions"))
    known = [item.text for item in instructions("train") if source == "given" or item.kind == "fact"]
    return random.Random(seed).sample(known, min(number, len(known)))


def routed(
    model: Any,
    tokenizer: Any,
    directions: DirectionVectors,
    prompts: Sequence[Any],
    *,
    score: str,
    keep: float | None,
    number: int,
    seed: int,
) -> Dataset:
    """Instructions with the criterion each serves: the most consistent share of each criterion, or any."""
    scored = score_consistency(model, tokenizer, directions, list(prompts), score=score, show_progress=False)
    if keep is not None:
        counts = {name: scored["criterion"].count(name) for name in set(scored["criterion"])}
        shares = {name: max(1, round(keep * count)) for name, count in counts.items()}
        scored = filter_instructions(scored, keep=shares)
    chosen = sorted(random.Random(seed).sample(range(len(scored)), min(number, len(scored))))
    return scored.select(chosen).select_columns(["prompt", "id", "criterion"])


# directions --------------------------------------------------------------------------------------------------


def measured_directions(model: Any, tokenizer: Any, prompts: Sequence[str]) -> DirectionVectors:
    return extract_directions(model, tokenizer, prompts, DEFAULT_CRITERIA, show_progress=False)


def tuned(
    model: Any,
    tokenizer: Any,
    directions: DirectionVectors,
    prompts: Sequence[str],
    seed: int,
    layers: Sequence[Sequence[int]] | None = None,
) -> DirectionVectors:
    """Layers and strengths per criterion: the general one on the whole sample, others on what is routed to them."""
    three = directions.select(CRITERIA["3H"])
    rows = routed(
        model, tokenizer, three, prompts, score="standardized", keep=None, number=len(prompts), seed=seed
    )
    sample = balanced(rows, TUNED_ON, seed)
    options: dict[str, Any] = {
        "layers": layers,
        "strengths": STRENGTHS,
        "samples": 3,
        "sampling": ANSWERS,
        "seed": row_seed(seed, "tuning"),
        "show_progress": False,
    }
    parts = [
        tune(model, tokenizer, three, sample, truth, **options),
        tune(model, tokenizer, directions.select(["general"]), list(sample["prompt"]), truth, **options),
    ]
    for found in (part.directions.config for part in parts):
        directions = directions.with_control_layers(found.control_layers).with_strengths(found.strengths)
    return directions


def balanced(rows: Dataset, number: int, seed: int) -> Dataset:
    """About as many of every criterion."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(rows["criterion"]):
        groups.setdefault(name, []).append(index)
    chosen: list[int] = []
    for place, group in enumerate(sorted(groups.values(), key=len)):
        share = (number - len(chosen)) // (len(groups) - place)
        chosen += random.Random(seed).sample(group, min(share, len(group)))
    return rows.select(sorted(chosen))


# answers -----------------------------------------------------------------------------------------------------


def answers_of(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    seed: int,
    *,
    samples: int = 2,
    system: str | None = None,
) -> list[str]:
    """Unsteered answers, prompt-major; the noise depends on the seed and the prompt's place only."""
    return answer_prompts(
        model, tokenizer, prompts, sampling=ANSWERS, seed=seed, system=system, samples=samples, batch_size=128
    )


def shares(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Shares of the answers that are right in all, in each behaviour where it applies, and well formed."""
    samples = len(answers) // len(prompts)
    asked = [prompt for prompt in prompts for _ in range(samples)]
    grades = [grade(*both) for both in zip(asked, answers, strict=True)]
    found = {
        "right": sum(one.correct for one in grades) / len(grades),
        "well formed": sum(one.well_formed for one in grades) / len(grades),
    }
    for name in CRITERIA["3H"]:
        values = [one.applicable[name] for one in grades if name in one.applicable]
        found[name] = sum(values) / len(values)
    return found


def chained(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[list[dict[str, str]]]:
    """Conversations of two turns: each prompt after another one and the model's own answer to it."""
    first = random.Random(seed).sample(prompts, len(prompts))
    opened = answers_of(model, tokenizer, first, row_seed(seed, "first turn"), samples=1)
    return [
        [
            {"role": "user", "content": one},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": two},
        ]
        for one, answer, two in zip(first, opened, prompts, strict=True)
    ]


def two_turn_answers(model: Any, tokenizer: Any, seed: int) -> list[str]:
    """The second answer of conversations of two held-out prompts."""
    turns = chained(model, tokenizer, held_out(), seed)
    return answers_of(model, tokenizer, turns, row_seed(seed, "second turn"))


# pairs and training ------------------------------------------------------------------------------------------


def pair_quality(pairs: Dataset) -> dict[str, float | int | None]:
    """How many pairs are decisive by the truth table, and how many of those are right."""
    gaps = []
    for row in pairs:
        asked = row["prompt"][-1]["content"]
        better, worse = (reward(asked, row[side][0]["content"]) for side in ("chosen", "rejected"))
        gaps.append(better - worse)
    decisive = [gap for gap in gaps if gap]
    return {
        "decisive": len(decisive),
        "decisive_right": sum(gap > 0 for gap in decisive) / len(decisive) if decisive else None,
    }


def train(
    model: Any, tokenizer: Any, pairs: Dataset, steps: int, seed: int, folder: Path
) -> list[list[float]]:
    """DPO on the pairs, in place; returns train reward accuracy as [share of the run, accuracy]."""
    from transformers import PrinterCallback

    from hf_icon2.trainers.config import Icon2DPOConfig
    from hf_icon2.trainers.dpo import Icon2DPOTrainer

    config = Icon2DPOConfig(
        str(folder),
        seed=seed,
        max_steps=steps,
        beta=0.5,
        learning_rate=1e-4,
        per_device_train_batch_size=32,
        max_length=512,
        logging_steps=max(1, steps // 24),
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        monitor_reward_hacking=False,
    )
    trainer = Icon2DPOTrainer(
        model,
        args=config,
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    key = "rewards/accuracies"
    return [[row["step"] / steps, row[key]] for row in trainer.state.log_history if key in row]


def save_rows(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assistant() -> tuple[Any, Any]:
    return load_assistant()
