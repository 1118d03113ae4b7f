"""A distilled student answers: with the label alone, as the paper's students do, or with the rationale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from hf_icon2.blocks import input_device
from hf_icon2.blocks.reading import evaluating
from hf_icon2.judges.evaluation_wording import warn_of_other_prefix
from hf_icon2.prompts import (
    decode_answer,
    encode_prompt,
    encode_source,
    pad_batch,
    pad_token_id,
    refuse_one_text,
    task_prompt,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    prefix: str = "predict: ",
    max_new_tokens: int = 32,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[str]:
    """The likeliest answer to each question, greedily.

    Args:
        model: Causal LM or encoder-decoder model.
        tokenizer: Its tokenizer.
        questions: What is asked.
        prefix: What was put before the prompt in training: that of labels, or that of rationales.
        max_new_tokens: Longest answer.
        batch_size: Questions per batch.
        progress: Name of the progress bar; None shows none.

    Raises:
        TypeError: For one text instead of a list.
        ValueError: For a question that is empty.
    """
    refuse_one_text(questions)
    warn_of_other_prefix(model, "prefix", prefix)
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
    answers = [""] * len(questions)
    with evaluating(model), tqdm(desc=progress, total=len(questions), disable=progress is None) as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            texts = [questions[index] for index in part]
            for index, ids in zip(
                part, _generate(model, tokenizer, prefix, texts, max_new_tokens), strict=True
            ):
                answers[index] = decode_answer(tokenizer, ids).strip()
            bar.update(len(part))
    return answers


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prefix: str,
    texts: Sequence[str],
    max_new_tokens: int,
) -> list[list[int]]:
    """New token ids of each text."""
    encoder_decoder, pad = model.config.is_encoder_decoder, pad_token_id(tokenizer)
    encode = encode_source if encoder_decoder else encode_prompt
    prompts = (task_prompt(tokenizer, prefix, text, encoder_decoder=encoder_decoder) for text in texts)
    rows = [encode(tokenizer, prompt) for prompt in prompts]
    ids, mask = pad_batch(rows, pad, side="right" if encoder_decoder else "left")
    device = input_device(model)
    # transformers 5.23 annotates `generate` for a protocol that its own models do not satisfy.
    output: Any = model.generate(  # type: ignore[operator]
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=_end_ids(model, tokenizer),
    )
    found: list[list[int]] = (output if encoder_decoder else output[:, ids.shape[1] :]).tolist()
    return found


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ends the model knows, and the tokenizer's, with which its training rows end."""
    known = model.generation_config.eos_token_id
    ends = {known} if isinstance(known, int) else set(known or ())
    return sorted(ends | ({tokenizer.eos_token_id} - {None}))
