"""Conversations written by the model itself, both sides of them, that end where the user waits for an answer.

The model writes a user's first turn, answers it, goes on in the user's place, and so on. What it is given at each
step is the chat template's own rendering of the turns so far, made anew: no text or state is carried over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets import Dataset, Features, List, Value

from hf_icon2.blocks import unwrap
from hf_icon2.prompts import (
    Message,
    decode_answer,
    encode_prompt,
    pad_token_id,
    pre_query_prefix,
    render_prompt,
)
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.instructions import instruction_id
from hf_icon2.synthesis.sieve import Draft, Sieve, SynthesisReport
from hf_icon2.synthesis.user_turns import SAMPLING, UserTurns, gather, provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWERS = Sampling(max_new_tokens=512)
"""How the model's answers between the user's turns are sampled by default."""


def synthesize_conversations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    turns: int = 2,
    sampling: Sampling | None = None,
    answers: Sampling | None = None,
    seed: int = 0,
    batch_size: int = 64,
    exclude: Iterable[str] = (),
    near_duplicates: bool = False,
    on_report: Callable[[SynthesisReport], object] = lambda _report: None,
    show_progress: bool = True,
) -> Dataset:
    """Lets the model write n different conversations whose last turn is the user's (beyond Icon², which has one turn).

    First turns are those of `synthesize_instructions`; the answers between are the unsteered model's own. All
    noise of row k follows from `seed` and k only, and rows are judged in order, so the result does not depend on
    the batch size (but for floating-point rounding). The rows serve wherever instructions do: pairs then differ in
    the answer to the last turn.

    Args:
        model: Causal LM with a chat template, or a PEFT model around one.
        tokenizer: Its tokenizer; the template is taken from it.
        n: Conversations wanted. Sampling ends early, with a warning in the log, where fewer than 1 % of the last
            512 rows were usable.
        turns: User turns of each.
        sampling: Of the user's turns; 256 tokens at temperature 1 by default.
        answers: Of the answers; 512 tokens at temperature 1 by default. Rows with an answer that is empty, holds
            special tokens or does not end by then are dropped.
        seed: Of the run.
        batch_size: Rows per batch.
        exclude: Texts that no user turn may be, such as evaluation prompts; compared up to case and white space.
        near_duplicates: Whether to drop rows whose last turn shares most word 3-grams with an earlier one's as well.
        on_report: Called once with the counts of what was kept and dropped. A row is a duplicate if its last turn is
            the last one of an earlier row: a request like "go on", which follows everything, is kept once.
        show_progress: Whether to show a progress bar.

    Returns:
        At most n rows: `prompt` (messages, the user's last), `id` (hash of the prompt), `source_model`, `sampling`,
        `answer_sampling`, `seed` (of the row), `finish_reasons` (of all that was sampled, in order).

    Raises:
        ValueError: If there is no chat template, or one that does not show all turns of a conversation, or no
            usable row came at all.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1, got {turns}")
    exchange = [{"role": role, "content": role} for role in ("user", "assistant")]
    pre_query_prefix(tokenizer, exchange * (turns - 1))  # refuses a template that is unfit before any work
    sieve: Sieve[_Conversation] = Sieve(exclude, near_duplicates)
    writer = _Writer(model, UserTurns(model, tokenizer, sampling or Sampling()), answers or ANSWERS, sieve)
    kept = gather(
        lambda numbers: writer.conversations([row_seed(seed, f"instruction-{k}") for k in numbers], turns),
        sieve,
        n,
        batch_size,
        template_system_prompt=writer.users.template_system_prompt,
        on_report=on_report,
        show_progress=show_progress,
    )
    return _dataset(kept, unwrap(model), writer)


@dataclass
class _Conversation:
    """A conversation in the making."""

    seed: int
    turns: list[Draft] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    fault: str | None = None

    def say(self, role: str, text: str, finish_reason: str) -> None:
        self.messages.append({"role": role, "content": text})
        self.finish_reasons.append(finish_reason)


@dataclass(frozen=True)
class _Writer:
    """Takes both sides of conversations in turn."""

    model: PreTrainedModel
    users: UserTurns
    answers: Sampling
    sieve: Sieve[_Conversation]

    def conversations(self, seeds: Sequence[int], turns: int) -> list[_Conversation]:
        """The rows with these seeds; one that shows a fault is not continued."""
        rows = [_Conversation(seed) for seed in seeds]
        self._ask(rows, self.users.drafts(seeds))
        for turn in range(1, turns):
            self._answer(_going(rows), turn)
            if going := _going(rows):
                seeds = [row_seed(row.seed, f"user-{turn}") for row in going]
                self._ask(going, self.users.later_drafts([row.messages for row in going], seeds))
        return rows

    def _ask(self, rows: Sequence[_Conversation], drafts: Sequence[Draft]) -> None:
        for row, draft in zip(rows, drafts, strict=True):
            before = list(row.messages)
            row.turns.append(draft)
            row.say("user", draft.text, draft.finish_reason)
            row.fault = self.sieve.turn_fault(draft)
            if row.fault is None and not self._shown(before, draft.text):
                row.fault = "rewritten"

    def _shown(self, history: list[Message], text: str) -> bool:
        """Whether the answer will be written to the very text that was sampled, after the very same history."""
        tokenizer = self.users.tokenizer
        prompt = render_prompt(tokenizer, [*history, {"role": "user", "content": text}])
        return prompt.startswith(pre_query_prefix(tokenizer, history) + text)

    def _answer(self, rows: Sequence[_Conversation], turn: int) -> None:
        if not rows:
            return
        tokenizer = self.users.tokenizer
        answers = generate_variants(
            self.model,
            [encode_prompt(tokenizer, row.messages) for row in rows],
            [[None] * len(rows)],
            sampling=self.answers,
            seeds=[[row_seed(row.seed, f"answer-{turn}") for row in rows]],
            pad=pad_token_id(tokenizer),
            batch_size=len(rows),
        )[0]
        for row, answer in zip(rows, answers, strict=True):
            text = decode_answer(tokenizer, answer.ids)
            row.say("assistant", text, answer.finish_reason)
            special = not self.users.special.isdisjoint(answer.ids)
            if answer.finish_reason != "stop" or special or not text.strip():
                row.fault = "answer"


def _going(rows: Sequence[_Conversation]) -> list[_Conversation]:
    return [row for row in rows if row.fault is None]


def _dataset(rows: list[_Conversation], model: PreTrainedModel, writer: _Writer) -> Dataset:
    prompts = [row.messages for row in rows]
    columns = {
        "prompt": prompts,
        "id": [instruction_id(prompt) for prompt in prompts],
        **provenance(model, len(rows), sampling=writer.users.sampling, answer_sampling=writer.answers),
        "seed": [row.seed for row in rows],
        "finish_reasons": [row.finish_reasons for row in rows],
    }
    types = {
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "id": Value("string"),
        "source_model": Value("string"),
        "sampling": SAMPLING,
        "answer_sampling": SAMPLING,
        "seed": Value("int64"),
        "finish_reasons": List(Value("string")),
    }
    return Dataset.from_dict(columns, Features({name: types[name] for name in columns}))
