"""Reasoning rows - a prompt, its label and a rationale - checked, tokenized and put into batches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_icon2.prompts import (
    Instruction,
    encode_exchange,
    encode_prompt,
    encode_source,
    encode_target,
    pad_batch,
    task_prompt,
)
from hf_icon2.trainers.rows import Row, check_columns, leave_out_cut

logger = logging.getLogger(__name__)


def prepare_reasoning(
    dataset: Dataset,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    prefixes: Mapping[str, str],
    *,
    encoder_decoder: bool,
    max_prompt_length: int | None,
    max_target_length: int | None,
) -> Dataset:
    """Checks every row and tokenizes it.

    Args:
        dataset: Rows of `prompt` (text, or a conversation) and the targets, texts.
        name: The argument it was passed as, for messages.
        tokenizer: The student's.
        prefixes: Column of each target, and what is put in front of its prompt.
        encoder_decoder: Whether the prompt goes to an encoder and the target to a decoder.
        max_prompt_length: Longest prompt in tokens, with its prefix and template; None keeps all.
        max_target_length: Longest target in tokens, with its end; None keeps all. Rows with something longer are
            left out, and counted in a warning: students would learn to stop in the midst of a rationale.

    Returns:
        Rows of `row` (its number), `length` (all tokens, to group rows by) and, for each target,
        `<column>_prompt_ids` and `<column>_target_ids`.

    Raises:
        TypeError: If it is no `datasets.Dataset`.
        ValueError: For a missing column or, naming the row, for a target that is blank or no text, or a prompt
            that is no text or conversation.
    """
    _check(dataset, name, prefixes)

    def encode(row: Row, index: int) -> dict[str, object]:
        encoded: dict[str, object] = {"row": index}
        length = 0
        try:
            for column, prefix in prefixes.items():
                prompt = task_prompt(tokenizer, prefix, row["prompt"], encoder_decoder=encoder_decoder)
                ids, target = _encode(
                    tokenizer, prompt, _target(row, column), encoder_decoder=encoder_decoder
                )
                encoded |= {f"{column}_prompt_ids": ids, f"{column}_target_ids": target}
                length += len(ids) + len(target)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}, row {index}: {error}") from None
        return encoded | {"length": length}

    def fits(row: Row) -> bool:
        limits = {"prompt": max_prompt_length, "target": max_target_length}
        return all(
            limit is None or len(row[f"{column}_{part}_ids"]) <= limit
            for column in prefixes
            for part, limit in limits.items()
        )

    rows = dataset.map(
        encode, with_indices=True, remove_columns=dataset.column_names, desc=f"Tokenizing {name}"
    )
    _warn_of_unknown_tokens(rows, name, tokenizer, prefixes)
    return leave_out_cut(
        rows,
        name,
        fits,
        what=f"would be cut at max_prompt_length={max_prompt_length} or max_target_length={max_target_length}",
        why="students would learn to stop in the midst of a target",
        remedy="raise them or shorten the rows",
    )


class ReasoningCollator:
    """Makes a batch per target: what the model reads, and what it is to say.

    Args:
        columns: Of the targets.
        pad_token_id: Of the student.
        encoder_decoder: Whether prompts and targets are read apart.
    """

    def __init__(self, columns: Sequence[str], pad_token_id: int, *, encoder_decoder: bool) -> None:
        self.columns = tuple(columns)
        self.pad_token_id = pad_token_id
        self.encoder_decoder = encoder_decoder

    def __call__(self, examples: Sequence[Row]) -> dict[str, dict[str, Tensor]]:
        """By column `input_ids` and `attention_mask`, (B, T), and `labels`, (B, K), all padded on the right.

        Labels are -100 where there is no target. For decoder-only students they are those of the last K columns,
        the first of which is the first with a target in any row.
        """
        return {
            column: self._batch(
                [row[f"{column}_prompt_ids"] for row in examples],
                [row[f"{column}_target_ids"] for row in examples],
            )
            for column in self.columns
        }

    def _batch(self, prompts: list[list[int]], targets: list[list[int]]) -> dict[str, Tensor]:
        if not self.encoder_decoder:
            shortest = min(map(len, prompts))
            pairs = list(zip(prompts, targets, strict=True))
            prompts = [prompt + target for prompt, target in pairs]
            targets = [[-100] * (len(prompt) - shortest) + target for prompt, target in pairs]
        ids, mask = pad_batch(prompts, self.pad_token_id, side="right")
        labels, _ = pad_batch(targets, -100, side="right")
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def warn_of_shared_prompts(train: Dataset, held_out: Dataset, column: str, name: str) -> None:
    """Warns where held-out prompts are trained on: a checkpoint chosen by them is chosen by what it memorised."""
    known = set(map(tuple, train[f"{column}_prompt_ids"]))
    shared = sum(tuple(ids) in known for ids in held_out[f"{column}_prompt_ids"])
    if shared:
        logger.warning(
            "%d of %d rows of %s have a prompt that is trained on; split by question, before questions are repeated",
            shared,
            len(held_out),
            name,
        )


def _check(dataset: Dataset, name: str, prefixes: Mapping[str, str]) -> None:
    missing = check_columns(dataset, name, {"prompt", *prefixes}, source="collect reasoning first")
    if missing:
        hint = {"rationale": "; alpha=1 needs no rationales", "label": "; alpha=0 needs no labels"}
        (only,) = missing if len(missing) == 1 else ("",)
        raise ValueError(
            f"{name} lacks the column(s) {', '.join(sorted(missing))}; it has {', '.join(dataset.column_names)}"
            f"{hint.get(only, '')}"
        )


def _warn_of_unknown_tokens(
    rows: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, columns: Iterable[str]
) -> None:
    """T5's vocabulary has no `<`, `{` or `^`, for example."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:
        return
    for column in columns:
        found = [
            row for row, ids in zip(rows["row"], rows[f"{column}_target_ids"], strict=True) if unknown in ids
        ]
        if found:
            logger.warning(
                "%d of %d rows of %s have a %s with characters that the tokenizer does not know (the first is row %d); "
                "the student learns to write %s for them",
                *(len(found), len(rows), name, column, found[0], tokenizer.unk_token),
            )


def _target(row: Row, column: str) -> str:
    target = row[column]
    if isinstance(target, str) and target.strip():
        return target
    if target is None or isinstance(target, str):
        raise ValueError(f"its {column} is blank, and the student would learn to say nothing; drop the row")
    raise ValueError(f"its {column} is {target!r}; allowed: text, so write numbers and classes out")


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: Instruction, target: str, *, encoder_decoder: bool
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of its target with its end."""
    if encoder_decoder:
        return encode_source(tokenizer, prompt), encode_target(tokenizer, target)
    ids, (target_ids,) = encode_exchange(tokenizer, prompt, [target])
    if tokenizer.chat_template is None and len(ids) < len(encode_prompt(tokenizer, prompt)):
        raise ValueError(
            f"without a chat template its end and the target {target[:20]!r} become one token, which no prompt "
            "alone ends with; take away the white space at its start"
        )
    return ids, target_ids
