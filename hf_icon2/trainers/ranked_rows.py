"""Ranked rows - a prompt, several responses and their scores - checked, tokenized and put into batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.utils import pad

from hf_icon2.prompts import answer_text, encode_exchange
from hf_icon2.trainers.rows import Row, check_columns, leave_out_cut


def prepare_ranked(
    dataset: Dataset,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    scored: bool,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    group_size: int | None = None,
) -> Dataset:
    """Checks every row and tokenizes it.

    Args:
        dataset: Rows of `prompt`, `responses` (message lists, or text throughout) and, if `scored`, `scores`.
        name: The argument it was passed as, for messages.
        tokenizer: The student's.
        max_length: Longest prompt and response together in tokens. Rows with a longer one are left out, and
            counted in a warning: cut responses would be compared by prefixes of different lengths.
        scored: Whether each response must have a score.
        teacher_tokenizer: Given where a teacher scores on the fly; adds its token ids.
        group_size: Responses compared at a time, at most those of a row; None compares all.

    Returns:
        Rows of `prompt_ids`, `responses_ids`, `row` (its number), `scores` or the teacher's ids.

    Raises:
        TypeError: If it is no `datasets.Dataset`.
        ValueError: For a missing column or, naming the row, for a number of responses that differs from the
            first row's, an empty response, a prompt or response that is no text or conversation, or a score that is
            missing or not finite.
    """
    _check_columns(dataset, name, scored=scored)
    count = len(dataset[0]["responses"] or [])
    if group_size is not None and not 2 <= group_size <= count:
        raise ValueError(
            f"group_size={group_size}, but every row of {name} has {count} responses; allowed: 2 to {count}, or None"
        )

    def encode(row: Row, index: int) -> dict[str, Any]:
        try:
            _check_row(row, count, scored=scored)
            encoded = {"row": index, **_encode(row, tokenizer)}
            theirs = {} if teacher_tokenizer is None else _encode(row, teacher_tokenizer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}, row {index}: {error}") from None
        encoded |= {f"teacher_{key}": value for key, value in theirs.items()}
        if scored:
            encoded["scores"] = [float(score) for score in row["scores"]]
        return encoded

    columns = dataset.column_names
    rows = dataset.map(encode, with_indices=True, remove_columns=columns, desc=f"Tokenizing {name}")
    return rows if max_length is None else _short_enough(rows, name, max_length)


def split_into_groups(dataset: Dataset, size: int) -> Dataset:
    """Rows of `size` responses each, in the order given; what is left over is dropped. For evaluation.

    Args:
        dataset: Prepared rows of N >= size responses.
        size: n, responses per group.
    """
    lists = [
        column for column in dataset.column_names if column.endswith("responses_ids") or column == "scores"
    ]

    def split(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        count = len(rows["responses_ids"][0]) // size
        return {
            column: [
                value[group * size : (group + 1) * size] if column in lists else value
                for value in values
                for group in range(count)
            ]
            for column, values in rows.items()
        }

    return dataset.map(split, batched=True)


class RankedCollator:
    """Makes a batch of G groups of n responses each, rows of one group next to each other.

    Rows with more than n responses are split into random groups of n (PAD's "preference decomposing"), other ones
    in each epoch; they depend on the seed, the epoch and the row only. The N mod n responses left over
    rest for that epoch.

    Args:
        pad_token_id: Of the student.
        group_size: n; None takes all responses of a row as one group.
        seed: Of the groups.
        teacher_pad_token_id: Where the rows hold a teacher's token ids.

    Attributes:
        epoch: Set by the trainer.
    """

    def __init__(
        self,
        pad_token_id: int,
        *,
        group_size: int | None = None,
        seed: int = 0,
        teacher_pad_token_id: int | None = None,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.teacher_pad_token_id = teacher_pad_token_id
        self.group_size = group_size
        self.seed = seed
        self.epoch = 0

    def __call__(self, examples: Sequence[Row]) -> dict[str, Tensor]:
        """Token ids, attention and completion masks, each (G * n, T) and padded on the right; scores (G, n)."""
        groups = [(example, group) for example in examples for group in self._groups(example)]
        batch = _padded(groups, "", self.pad_token_id)
        if self.teacher_pad_token_id is not None:
            batch |= _padded(groups, "teacher_", self.teacher_pad_token_id)
        if "scores" in examples[0]:
            scores = [[example["scores"][index] for index in group] for example, group in groups]
            batch["scores"] = torch.tensor(scores, dtype=torch.float64)
        batch["group_size"] = torch.tensor(len(groups[0][1]))
        return batch

    def _groups(self, example: Row) -> list[list[int]]:
        count = len(example["responses_ids"])
        size = self.group_size or count
        if size == count:
            return [list(range(count))]
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch, example["row"])) % 2**63)
        order = torch.randperm(count, generator=generator).tolist()
        return [order[start : start + size] for start in range(0, count - size + 1, size)]


class FreshGroups(TrainerCallback):
    """Tells the collator the epoch, also when a training is taken up in the midst of one."""

    def __init__(self, collator: RankedCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Other groups from here on."""
        self.collator.epoch = math.floor(state.epoch or 0)


def _padded(groups: Sequence[tuple[Row, list[int]]], prefix: str, pad_token_id: int) -> dict[str, Tensor]:
    pairs = [
        (example[f"{prefix}prompt_ids"], example[f"{prefix}responses_ids"][index])
        for example, group in groups
        for index in group
    ]
    parts = {
        "input_ids": ([torch.tensor(prompt + response) for prompt, response in pairs], pad_token_id),
        "attention_mask": ([torch.ones(len(p) + len(r), dtype=torch.long) for p, r in pairs], 0),
        "completion_mask": ([torch.tensor([0] * len(p) + [1] * len(r)) for p, r in pairs], 0),
    }
    return {
        prefix + name: pad(rows, padding_value=value, padding_side="right")
        for name, (rows, value) in parts.items()
    }


def _check_columns(dataset: Dataset, name: str, *, scored: bool) -> None:
    wanted = {"prompt", "responses", *(["scores"] if scored else [])}
    if missing := sorted(check_columns(dataset, name, wanted, source="sample candidates first")):
        hint = "; to have a teacher score the responses, pass teacher_model=" if missing == ["scores"] else ""
        raise ValueError(
            f"{name} lacks the column(s) {', '.join(missing)}; it has {', '.join(dataset.column_names)}{hint}"
        )


def _check_row(row: Row, count: int, *, scored: bool) -> None:
    responses = row["responses"] or []
    if len(responses) != count or count < 2:
        raise ValueError(
            f"has {len(responses)} responses, the first row has {count}; every row needs the same number, 2 or more"
        )
    for index, response in enumerate(responses):
        if not response or not answer_text(response).strip():
            raise ValueError(f"response {index} is empty; drop the row or sample it again")
    if not scored:
        return
    scores = row["scores"] if isinstance(row["scores"], list) else []
    if len(scores) != count:
        raise ValueError(f"has {len(scores)} scores for {count} responses; give one score per response")
    for index, score in enumerate(scores):
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"score {index} is {score!r}; allowed: a finite number for every response")


def _encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Token ids of the prompt with its generation prompt, and of each response with its end."""
    prompt, responses = encode_exchange(tokenizer, row["prompt"], row["responses"])
    return {"prompt_ids": prompt, "responses_ids": responses}


def _short_enough(rows: Dataset, name: str, max_length: int) -> Dataset:
    def fits(row: Row) -> bool:
        return len(row["prompt_ids"]) + max(map(len, row["responses_ids"])) <= max_length

    return leave_out_cut(
        rows,
        name,
        fits,
        what=f"hold a response that would be cut at max_length={max_length}",
        why="cut responses cannot be compared",
        remedy="raise max_length or sample shorter responses",
    )
