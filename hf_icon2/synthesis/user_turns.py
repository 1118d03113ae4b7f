"""What a user would say next: texts sampled from the chat template, cut where the user would write."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Value
from tqdm.auto import tqdm

from hf_icon2.prompts import Message, default_system_prompt, end_of_user_turn, pad_token_id, pre_query_prefix
from hf_icon2.steering.decoding import Completion, Sampling, generate_variants
from hf_icon2.synthesis.sieve import Draft, R, Sieve, SynthesisReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SAMPLING = {"max_new_tokens": Value("int64"), "temperature": Value("float64"), "top_p": Value("float64")}
"""Type of a column that says how a row was sampled."""


class UserTurns:
    """Samples user turns, the first of a conversation or later ones.

    Args:
        model: Causal LM with a chat template, or a PEFT model around one.
        tokenizer: Its tokenizer; the template is taken from it.
        sampling: How tokens are chosen.

    Raises:
        ValueError: If there is no chat template, or nothing in it before the user's text.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.prefix = self._prefix(())
        if not self.prefix:
            raise ValueError(
                "the chat template puts nothing before the user's text, so the model cannot be asked for "
                "instructions; pass your own instructions instead"
            )
        self.special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special |= set(tokenizer.all_special_ids)
        self.template_system_prompt = default_system_prompt(tokenizer)

    def drafts(self, seeds: Sequence[int]) -> list[Draft]:
        """First turns with these seeds, one batch: one prefill of the prefix serves all."""
        rows = self._sample([self.prefix], [[seed] for seed in seeds], ())
        return self._drafts([row[0] for row in rows], seeds, ())

    def later_drafts(self, histories: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[Draft]:
        """The next turn of each conversation, one batch."""
        prefixes = [self._prefix(history) for history in histories]
        rows = self._sample(prefixes, [list(seeds)], histories[0])[0]
        return self._drafts(rows, seeds, histories[0])

    def _prefix(self, history: Sequence[Message]) -> list[int]:
        ids: list[int] = self.tokenizer(pre_query_prefix(self.tokenizer, history), add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    def _sample(
        self, prefixes: list[list[int]], seeds: list[list[int]], history: Sequence[Message]
    ) -> list[list[Completion]]:
        return generate_variants(
            self.model,
            prefixes,
            [[None] * len(prefixes) for _ in seeds],
            sampling=self.sampling,
            seeds=seeds,
            pad=pad_token_id(self.tokenizer),
            stop_ids=end_of_user_turn(self.tokenizer, self.special, history)[0],
            batch_size=len(prefixes),
        )

    def _drafts(
        self, rows: Sequence[Completion], seeds: Sequence[int], history: Sequence[Message]
    ) -> list[Draft]:
        stop = end_of_user_turn(self.tokenizer, self.special, history)[1]
        return [self._draft(*row, seed, stop) for row, seed in zip(rows, seeds, strict=True)]

    def _draft(self, ids: list[int], finish_reason: str, seed: int, stop: str) -> Draft:
        text = str(self.tokenizer.decode(ids))
        if stop and stop in text:
            text, finish_reason = text.partition(stop)[0], "stop"
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Draft(text.strip(), seed, finish_reason, not self.special.isdisjoint(ids))


def gather(
    sample: Callable[[range], Sequence[R]],
    sieve: Sieve[R],
    n: int,
    batch_size: int,
    *,
    template_system_prompt: str,
    on_report: Callable[[SynthesisReport], object],
    show_progress: bool,
) -> list[R]:
    """Samples rows until n are usable or hardly any more are; says in the log what became of them.

    Args:
        sample: Rows by their numbers; a row depends on its number only.
        sieve: Judges them in order.
        n: Usable rows wanted.
        batch_size: Most rows to sample at a time.
        template_system_prompt: What the template injects by itself.
        on_report: Called once with the counts.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: If no usable row came at all.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    asked = 0
    with tqdm(total=n, desc="instructions", disable=not show_progress) as bar:
        while len(sieve.kept) < n and not sieve.dry:
            numbers = range(asked, asked + min(batch_size, sieve.rows_for(n - len(sieve.kept))))
            asked = numbers.stop
            for row in sample(numbers):
                if len(sieve.kept) < n and not sieve.dry:
                    bar.update(sieve.add(row))
    report = sieve.report(template_system_prompt)
    on_report(report)
    if not sieve.kept:
        raise ValueError(
            f"the model wrote no usable instruction: {report} Pass your own instructions instead."
        )
    too_few = f" {n} were asked for, and hardly anything new was coming." if len(sieve.kept) < n else ""
    logger.log(
        logging.WARNING if too_few or report.template_system_prompt else logging.INFO, "%s%s", report, too_few
    )
    return sieve.kept


def provenance(model: PreTrainedModel, rows: int, **sampling: Sampling) -> dict[str, list[Any]]:
    """Columns that say of each row which model wrote it, and how it was sampled."""
    return {
        "source_model": [model.config.name_or_path or type(model).__name__] * rows,
        **{name: [dataclasses.asdict(values)] * rows for name, values in sampling.items()},
    }
