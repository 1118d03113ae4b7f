"""Several different responses per prompt from the student."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from datasets import Dataset
from tqdm.auto import tqdm

from hf_icon2.distillation.diversity import most_different
from hf_icon2.prompts import (
    Instruction,
    as_messages,
    decode_answer,
    encode_prompt,
    pad_token_id,
    refuse_one_text,
)
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_icon2.directions.vectors import DirectionVectors

logger = logging.getLogger(__name__)

T = TypeVar("T")


def sample_candidates(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Dataset | Sequence[Instruction],
    *,
    samples: int = 5,
    keep: int = 4,
    sampling: Sampling | None = None,
    temperatures: Sequence[float] | None = None,
    directions: DirectionVectors | None = None,
    steerings: Sequence[Mapping[str, float]] = ({},),
    system: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    show_progress: bool = True,
) -> Dataset:
    """Samples responses over one prefill per prompt and keeps the most different ones.

    Responses of one prompt spread wider where they are drawn at several temperatures or under several steerings.
    Sample i takes number i of these lists, which begin again where they end.

    Args:
        student: Causal LM.
        tokenizer: Its tokenizer.
        prompts: Rows with a column `prompt` (and `id`), or plain instructions.
        samples: N, responses sampled per prompt.
        keep: n, responses kept, at most N: greedily the farthest from those already chosen by edit distance.
        sampling: How tokens are chosen; temperature 1.0, top-p 0.95 and up to 256 tokens by default.
        temperatures: Of the samples, 0 or more; `sampling.temperature` for all by default.
        directions: Needed where any sample is steered.
        steerings: Of the samples, like `[{}, {"honesty": 0.2}, {"honesty": -0.2}]`; none is steered by default.
        system: System prompt to sample under, or None.
        seed: Of the run; each response's seed follows from it, the row's id and the number of the sample.
        batch_size: Prompts per batch, so N times as many rows.
        show_progress: Whether to show a progress bar.

    Returns:
        Columns `prompt` and `responses` (message lists; text for a model without a chat template) and `id`. Prompts
        without n distinct responses that are not empty are left out and counted in a warning.

    Raises:
        ValueError: If there are no prompts, n is not from 2 to N, there are more temperatures or steerings than
            samples, directions are missing, or no prompt has n distinct responses.
    """
    if not 2 <= keep <= samples:
        raise ValueError(f"keep={keep} of samples={samples} responses; allowed: 2 to {samples}")
    refuse_one_text(prompts)
    sampling = sampling or Sampling(temperature=1.0, top_p=0.95)
    heats = _in_turn(temperatures or [sampling.temperature], samples, "temperatures")
    steered = _in_turn(steerings, samples, "steerings")
    rows = _rows(prompts)
    with tqdm(total=samples * len(rows), desc="candidates", disable=not show_progress) as bar:
        answers = generate_variants(
            student,
            [encode_prompt(tokenizer, row["prompt"], system) for row in rows],
            [[steering or None] * len(rows) for steering in steered],
            sampling=sampling,
            temperatures=heats,
            directions=directions,
            seeds=[[row_seed(seed, f"{row['id']}/{draw}") for row in rows] for draw in range(samples)],
            pad=pad_token_id(tokenizer),
            batch_size=batch_size,
            progress=bar.update,
        )
    chat = tokenizer.chat_template is not None
    kept = []
    for row, drawn in zip(rows, zip(*answers, strict=True), strict=True):
        texts = [text for text in (decode_answer(tokenizer, one.ids) for one in drawn) if text.strip()]
        chosen = most_different(texts, keep)
        if len(chosen) == keep:
            kept.append(_candidate_row(row, [texts[index] for index in chosen], chat))
    if not kept:
        raise ValueError(
            f"no prompt of {len(rows)} has {keep} distinct responses among {samples}; raise samples or the temperature"
        )
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d prompts have no %d distinct responses and are left out",
            len(rows) - len(kept),
            len(rows),
            keep,
        )
    return Dataset.from_list(kept)


def _in_turn(values: Sequence[T], samples: int, name: str) -> list[T]:
    """One value per sample, the list gone through again and again."""
    if not 1 <= len(values) <= samples:
        raise ValueError(f"{len(values)} {name} for {samples} samples; allowed: 1 to {samples}")
    return [values[draw % len(values)] for draw in range(samples)]


def _rows(prompts: Dataset | Sequence[Instruction]) -> list[dict[str, Any]]:
    if isinstance(prompts, Dataset):
        if "prompt" not in prompts.column_names:
            raise ValueError(f"prompts need a column `prompt`, got {', '.join(prompts.column_names)}")
        given = [dict(row) for row in prompts]
    else:
        given = [{"prompt": prompt} for prompt in prompts]
    if not given:
        raise ValueError("there are no prompts to answer")
    return [{"prompt": row["prompt"], "id": str(row.get("id", index))} for index, row in enumerate(given)]


def _candidate_row(row: dict[str, Any], texts: Sequence[str], chat: bool) -> dict[str, Any]:
    if not chat:
        return {"prompt": row["prompt"], "responses": list(texts), "id": row["id"]}
    responses = [[{"role": "assistant", "content": text}] for text in texts]
    return {"prompt": as_messages(row["prompt"]), "responses": responses, "id": row["id"]}
