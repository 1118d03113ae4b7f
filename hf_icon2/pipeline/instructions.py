"""The instructions of a run: written by its model, told apart, and sampled evenly."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from datasets import Dataset

from hf_icon2.pipeline.subject import Subject
from hf_icon2.prompts import Instruction
from hf_icon2.recipe import Recipe
from hf_icon2.steering.decoding import Sampling
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.conversations import synthesize_conversations
from hf_icon2.synthesis.instructions import instruction_id, synthesize_instructions
from hf_icon2.synthesis.sieve import SynthesisReport


def self_written(
    subject: Subject,
    recipe: Recipe,
    number: int,
    purpose: str,
    *,
    turns: int = 1,
    on_report: Callable[[SynthesisReport], object] = lambda _report: None,
) -> Dataset:
    """Instructions, or conversations of several user turns, that the model writes; none holds a held-out prompt.

    Args:
        subject: Whose model writes.
        recipe: Settings of the sampling, and the seed.
        number: Rows wanted.
        purpose: Other rows are sampled for another purpose.
        turns: User turns of each row; with more than one, rows are conversations.
        on_report: Called with the counts.

    Raises:
        ValueError: If the model has no chat template.
    """
    settings = recipe.synthesis
    if subject.tokenizer.chat_template is None:
        raise ValueError(
            f"{subject.source} has no chat template, so it cannot be asked for instructions of its own; set "
            "extraction.instructions and synthesis.instructions to a JSONL file or Hub dataset with some"
        )
    write: Callable[..., Dataset] = synthesize_instructions
    if turns > 1:
        write = partial(synthesize_conversations, turns=turns, answers=pair_sampling(recipe))
    return write(
        subject.model,
        subject.tokenizer,
        number,
        sampling=Sampling(settings.max_new_tokens, settings.temperature, settings.top_p),
        seed=row_seed(recipe.seed, purpose),
        batch_size=settings.batch_size,
        exclude=subject.excluded,
        near_duplicates=not settings.near_duplicates,
        on_report=on_report,
    )


def pair_sampling(recipe: Recipe) -> Sampling:
    """How answers are sampled."""
    settings = recipe.pairs
    return Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)


def distinct(rows: Dataset) -> list[Instruction]:
    """The different prompts of some rows, in their order."""
    return list({instruction_id(prompt): prompt for prompt in rows["prompt"]}.values())


def balanced_sample(kept: Dataset, number: int, seed: int) -> Dataset:
    """About the same number of instructions of every criterion, `number` different ones at most."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(kept["criterion"]):
        groups.setdefault(name, []).append(index)
    generator = random.Random(seed)
    chosen: list[int] = []
    for place, group in enumerate(sorted(groups.values(), key=len)):
        share = (number - len(chosen)) // (len(groups) - place)
        chosen += generator.sample(group, min(share, len(group)))
    return kept.select(sorted(chosen))
