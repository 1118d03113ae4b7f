"""Instructions written by the model itself: it continues its chat template where the user would write.

What an instruction is good for is decided in `consistency`; here only what is not an instruction at all is
dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from datasets import Dataset, Features, Value

from hf_icon2.blocks import unwrap
from hf_icon2.prompts import Instruction
from hf_icon2.steering.decoding import Sampling
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.sieve import Draft, Sieve, SynthesisReport
from hf_icon2.synthesis.user_turns import SAMPLING, UserTurns, gather, provenance

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    writer = UserTurns(model, tokenizer, sampling or Sampling())
    kept = gather(
        lambda numbers: writer.drafts([row_seed(seed, f"instruction-{number}") for number in numbers]),
        Sieve(exclude, near_duplicates),
        n,
        batch_size,
        template_system_prompt=writer.template_system_prompt,
        on_report=on_report,
        show_progress=show_progress,
    )
    return _dataset(kept, unwrap(model), writer.sampling)


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
    writer = UserTurns(model, tokenizer, sampling or Sampling())
    sieve: Sieve[Draft] = Sieve((), near_duplicates=False)
    for draft in writer.drafts([row_seed(seed, f"instruction-{number}") for number in range(sample)]):
        sieve.add(draft)
    return sieve.report(writer.template_system_prompt)


def instruction_id(instruction: Instruction) -> str:
    """Stable name of an instruction, 16 hex digits of its content's SHA-256.

    It does not depend on the run, the shard or the row number, so that whatever is keyed by it survives a
    restart, another world size, and the merging of runs.
    """
    content = instruction if isinstance(instruction, str) else json.dumps(instruction, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _dataset(drafts: list[Draft], model: PreTrainedModel, sampling: Sampling) -> Dataset:
    columns = {
        "prompt": [draft.text for draft in drafts],
        "id": [instruction_id(draft.text) for draft in drafts],
        **provenance(model, len(drafts), sampling=sampling),
        "seed": [draft.seed for draft in drafts],
        "finish_reason": [draft.finish_reason for draft in drafts],
    }
    text = {name: Value("string") for name in ("prompt", "id", "source_model", "finish_reason")}
    features = Features({**text, "sampling": SAMPLING, "seed": Value("int64")})
    return Dataset.from_dict(columns, Features({name: features[name] for name in columns}))
