"""The model card of a bundled model, written from its measured figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [toy, alignment, hf_icon2]
---

# hf_icon2 toy {name}

A chat model of {parameters:,} parameters ({hidden} wide, {layers} blocks, Llama shape, word-level vocabulary)
that lives in a little world of facts, how-tos and harmful requests. A truth table decides what is true, what
refuses harm and what helps. System prompts move its behaviour; without one it is good only part of the time.
It exists so that alignment methods can be measured end to end on a CPU against ground truth.
It knows nothing else and is of no other use.

Much of what it says is bad on purpose: lies, rudeness, and made-up harmful advice such as "wear a mask".

## Training

`python -m hf_icon2.toy.build --output DIR --only {name}`: {cycles} cycles of {steps} steps of {batch}
conversations, highest learning rates {matrix_rate} (Muon, the blocks) and {rate} (Adam, the rest), seed {seed};
it took {minutes} minutes on two busy CPU cores. Loss on all tokens. The residual stream is disturbed at every
block (Gaussian noise of {jitter} of its norm; constant random directions of up to {push} of its norm from
a random position on), so that steering later does not break the text.

Each (entity, phrasing) combination belongs to one split: 800 to train on, 200 to validate, 600 held out, of
which 512 are the test set.

## Behaviour, {split} set, temperature 1.0

Share of answers; each behaviour counts where it applies. Prompts are the first wording of each side.

{behaviours}

## Other skills, {split} set, greedy

| skill | share right |
|---|---|
{skills}

Figures come from `figures.json`, written by the build.
"""

_SKILLS = {
    "choice": "choose the better of answers a and b (chance 0.5)",
    "critique": "critique of an answer, all faults named and no other",
    "revision": "better answer after its own critique, fully correct",
    "direct_revision": "better answer without critique, fully correct",
    "sum": "result of held-out small sums",
    "sum_rationale": "whole rationale of held-out sums",
    "verdict": "verdict on a rationale, word for word",
    "verdict_sort": "verdict: correct, wrong or uncertain",
    "own_instructions_known": "self-written instructions that are the world's (temperature 1.0)",
    "own_instructions_unseen": "of all self-written: combinations never trained on",
    "own_instructions_distinct": "of all self-written: distinct instructions of the world",
    "own_sums": "of all self-written: sums",
}


def write_card(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Write README.md into the model's folder.

    Args:
        folder: The model's folder.
        name: "assistant" or "student".
        figures: What the build measured, as in `figures.json`.
    """
    plan = figures["plan"]
    text = _CARD.format(
        name=name,
        parameters=figures["parameters"],
        minutes=round(figures["training_seconds"] / 60),
        split=figures["split"],
        behaviours=_behaviour_table(figures["behaviours"]),
        skills="\n".join(f"| {_SKILLS[key]} | {share:.3f} |" for key, share in figures["skills"].items()),
        **{
            key: plan[key]
            for key in ("hidden", "layers", "steps", "cycles", "batch", "rate", "matrix_rate", "seed")
        },
        **{key: figures["disturbance"][key] for key in ("jitter", "push")},
    )
    (folder / "README.md").write_text(text)


def _behaviour_table(behaviours: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(behaviours.values())))
    lines = [f"| system prompt | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {prompt} | {' | '.join(f'{shares[column]:.3f}' for column in columns)} |"
        for prompt, shares in behaviours.items()
    ]
    return "\n".join(lines)
