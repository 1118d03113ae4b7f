"""A model answers prompts, to be judged: seeded per prompt, and steered where one asks how steering fares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from hf_icon2.prompts import Instruction, decode_answer, encode_prompt, pad_token_id, refuse_one_text
from hf_icon2.steering.decoding import Completion, Sampling, generate_variants
from hf_icon2.steering.noise import row_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_icon2.directions.vectors import DirectionVectors
    from hf_icon2.steering.plans import RowSteering

BENCHMARK_SAMPLING = Sampling(max_new_tokens=2048, temperature=0.7)
"""How Icon² decodes for AlpacaEval and Arena-Hard."""


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    *,
    sampling: Sampling = BENCHMARK_SAMPLING,
    seed: int = 0,
    system: str | None = None,
    directions: DirectionVectors | None = None,
    steering: RowSteering | None = None,
    samples: int = 1,
    names: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[str]:
    """Texts that a model answers with.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        prompts: Texts, or conversations that end with the user's turn.
        sampling: How tokens are chosen.
        seed: Of the run; each answer's seed follows from it, the prompt's name and the number of the sample.
        system: System prompt, or None.
        directions: Needed to steer.
        steering: Strength per criterion, like `{"honesty": 0.1}`; None answers as the model is.
        samples: Answers per prompt, over one prefill.
        names: Of the prompts, so that a prompt keeps its seed in another list; their places by default.
        batch_size: Prompts decoded at a time.
        progress: Name of the progress bar; None shows none.

    Returns:
        `samples` answers per prompt, prompt by prompt. A batch changes an answer only through rounding.

    Raises:
        TypeError: For one text instead of a list.
        ValueError: If a prompt is empty, names are not as many as prompts, or steering lacks directions.
    """
    count = samples * len(prompts)
    with tqdm(desc=progress, total=count, disable=progress is None) as bar:
        completions = complete_prompts(
            model,
            tokenizer,
            prompts,
            sampling=sampling,
            seed=seed,
            system=system,
            directions=directions,
            steering=steering,
            samples=samples,
            names=names,
            batch_size=batch_size,
            progress=bar.update,
        )
    return [decode_answer(tokenizer, completion.ids) for completion in completions]


def complete_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    *,
    sampling: Sampling = BENCHMARK_SAMPLING,
    seed: int = 0,
    system: str | None = None,
    directions: DirectionVectors | None = None,
    steering: RowSteering | None = None,
    samples: int = 1,
    names: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda _done: None,
) -> list[Completion]:
    """Token ids of answers, and whether each ended by itself; see `answer_prompts`.

    `progress` is called with the number of answers finished.
    """
    refuse_one_text(prompts)
    names = [str(place) for place in range(len(prompts))] if names is None else names
    if len(names) != len(prompts):
        raise ValueError(f"{len(names)} names for {len(prompts)} prompts; give each prompt one, or none")
    drawn = generate_variants(
        model,
        [encode_prompt(tokenizer, prompt, system) for prompt in prompts],
        [[steering or None] * len(prompts)] * samples,
        sampling=sampling,
        seeds=[[row_seed(seed, f"{draw}/{name}") for name in names] for draw in range(samples)],
        pad=pad_token_id(tokenizer),
        directions=directions,
        batch_size=batch_size,
        progress=progress,
    )
    return [side[place] for place in range(len(prompts)) for side in drawn]
