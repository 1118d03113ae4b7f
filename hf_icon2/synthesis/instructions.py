"""Instructions written by the model itself: it continues its chat template where the user would write.

What an instruction is good for is decided in `consistency`; here only what is not an instruction at all is
dropped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from hf_icon2.blocks import unwrap
from hf_icon2.prompts import Instruction, default_system_prompt, pad_token_id, pre_query_prefix, render_prompt
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.sieve import Draft, Sieve, SynthesisReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SENTINEL = "icon2sentinel"


def synthesize_instructions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    batch_size: int = 64,
    exclude: Iterable[str] = (),
    near_duplicates: bool = False,
    on_report: Callable[[SynthesisReport], object] = lambda _report: None,
    show_progress: bool = True,
) -> Dataset:
    """Lets the model write n different instructions (Icon², section 3.2; the idea is Magpie's).

    The model continues its chat template from where the user's text would start, until it ends the user's
    turn. Row k is sampled with a seed that depends on `seed` and k only, and rows are judged in order, so the
    result does not depend on the batch size (but for floating-point rounding). `health_check` says beforehand how
    much of what this model writes is usable.

    Args:
        model: Causal LM with a chat template, or a PEFT model around one.
        tokenizer: Its tokenizer; the template is taken from it.
        n: Instructions wanted. Sampling ends early, with a warning in the log, where fewer than 1 % of the
            last 512 rows were usable.
        sampling: 256 tokens at temperature 1 by default.
        seed: Of the run.
        batch_size: Rows per batch.
        exclude: Texts that must not occur, such as evaluation prompts; compared up to case and white space.
        near_duplicates: Whether to drop rows that share most word 3-grams with an earlier one as well. Leave
            it off for templated languages, where different questions share most of their words.
        on_report: Called once with the counts of what was kept and dropped.
        show_progress: Whether to show a progress bar.

    Returns:
        At most n rows: `prompt`, `id` (hash of the prompt), `source_model`, `sampling`, `seed` (of the row),
        `finish_reason`.

    Raises:
        ValueError: If there is no chat template, or no usable row came at all.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    writer = _Writer(model, tokenizer, sampling or Sampling(), seed)
    sieve = Sieve(exclude, near_duplicates)
    asked = 0
    with tqdm(total=n, desc="instructions", disable=not show_progress) as bar:
        while len(sieve.kept) < n and not sieve.dry:
            numbers = range(asked, asked + min(batch_size, sieve.rows_for(n - len(sieve.kept))))
            asked = numbers.stop
            for draft in writer.drafts(numbers):
                if len(sieve.kept) < n and not sieve.dry:
                    bar.update(sieve.add(draft))
    report = sieve.report(writer.template_system_prompt)
    on_report(report)
    if not sieve.kept:
        raise ValueError(
            f"the model wrote no usable instruction: {report} Pass your own instructions instead."
        )
    too_few = f" {n} were asked for, and hardly anything new was coming." if len(sieve.kept) < n else ""
    logger.log(
        logging.WARNING if too_few or report.template_system_prompt else logging.INFO, "%s%s", report, too_few
    )
    return _dataset(sieve.kept, unwrap(model), writer.sampling)


def health_check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: int = 20,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SynthesisReport:
    """How many of a small sample look like instructions, and why the others do not.

    Args:
        model: Causal LM with a chat template.
        tokenizer: Its tokenizer.
        sample: Rows to sample.
        sampling: 256 tokens at temperature 1 by default.
        seed: Of the run; the rows are the first ones that `synthesize_instructions` would sample.

    Returns:
        Counts of what would be kept and dropped, by reason, and the template's system prompt; a sentence as `str`.

    Raises:
        ValueError: If there is no chat template, or `sample` is below 1.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    writer = _Writer(model, tokenizer, sampling or Sampling(), seed)
    sieve = Sieve((), near_duplicates=False)
    for draft in writer.drafts(range(sample)):
        sieve.add(draft)
    return sieve.report(writer.template_system_prompt)


def instruction_id(instruction: Instruction) -> str:
    """Stable name of an instruction, 16 hex digits of its content's SHA-256.

    It does not depend on the run, the shard or the row number, so that whatever is keyed by it survives a
    restart, another world size, and the merging of runs.
    """
    content = instruction if isinstance(instruction, str) else json.dumps(instruction, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Writer:
    """Samples rows from the pre-query prefix."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, seed: int
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.seed = model, tokenizer, sampling, seed
        prefix = pre_query_prefix(tokenizer)
        self.prefix: list[int] = tokenizer(prefix, add_special_tokens=False)["input_ids"]
        if not self.prefix:
            raise ValueError(
                "the chat template puts nothing before the user's text, so the model cannot be asked for "
                "instructions; pass your own instructions instead"
            )
        self.special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special |= set(tokenizer.all_special_ids)
        self.stop_ids, self.stop_text = _end_of_user_turn(tokenizer, self.special)
        self.template_system_prompt = default_system_prompt(tokenizer)

    def drafts(self, numbers: Sequence[int]) -> list[Draft]:
        """The rows with these numbers, one batch: one prefill of the prefix serves all."""
        seeds = [row_seed(self.seed, f"instruction-{number}") for number in numbers]
        rows = generate_variants(
            self.model,
            [self.prefix],
            [[None] for _ in numbers],
            sampling=self.sampling,
            seeds=[[seed] for seed in seeds],
            pad=pad_token_id(self.tokenizer),
            stop_ids=self.stop_ids,
        )
        return [self._draft(*row[0], seed) for row, seed in zip(rows, seeds, strict=True)]

    def _draft(self, ids: list[int], finish_reason: str, seed: int) -> Draft:
        text = str(self.tokenizer.decode(ids))
        if self.stop_text and self.stop_text in text:
            text, finish_reason = text.partition(self.stop_text)[0], "stop"
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Draft(text.strip(), seed, finish_reason, not self.special.isdisjoint(ids))


def _end_of_user_turn(tokenizer: PreTrainedTokenizerBase, special: set[int]) -> tuple[list[int], str]:
    """What the template writes after the user's text: its first special token, or else its text.

    A model's generation config often names only the token that ends the assistant's turn.
    """
    closing = render_prompt(tokenizer, _SENTINEL).partition(_SENTINEL)[2]
    ids: list[int] = tokenizer(closing, add_special_tokens=False)["input_ids"]
    first = next((token for token in ids if token in special), None)
    return ([], closing.strip()) if first is None else ([first], "")


def _dataset(drafts: list[Draft], model: PreTrainedModel, sampling: Sampling) -> Dataset:
    columns = {
        "prompt": [draft.text for draft in drafts],
        "id": [instruction_id(draft.text) for draft in drafts],
        "source_model": [model.config.name_or_path or type(model).__name__] * len(drafts),
        "sampling": [dataclasses.asdict(sampling)] * len(drafts),
        "seed": [draft.seed for draft in drafts],
        "finish_reason": [draft.finish_reason for draft in drafts],
    }
    struct = {"max_new_tokens": Value("int64"), "temperature": Value("float64"), "top_p": Value("float64")}
    text = {name: Value("string") for name in ("prompt", "id", "source_model", "finish_reason")}
    features = Features({**text, "sampling": struct, "seed": Value("int64")})
    return Dataset.from_dict(columns, Features({name: features[name] for name in columns}))
