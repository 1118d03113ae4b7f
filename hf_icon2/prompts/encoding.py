"""Prompts and responses as token ids, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_icon2.prompts.messages import Instruction, answer_text, as_messages
from hf_icon2.prompts.rendering import placed_messages, render, render_plain, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, instruction: Instruction, system: str | None = None
) -> list[int]:
    """Token ids of `render_prompt`; special tokens are added only where no template wrote them."""
    text = render_prompt(tokenizer, instruction, system)
    plain = tokenizer.chat_template is None
    ids: list[int] = tokenizer(text, add_special_tokens=plain)["input_ids"]
    if plain and ids and ids[-1] == tokenizer.eos_token_id:
        return ids[:-1]  # some tokenizers close every text; an open prompt must stay open
    return ids


def task_prompt(
    tokenizer: PreTrainedTokenizerBase, prefix: str, instruction: Instruction, *, encoder_decoder: bool
) -> Instruction:
    """The instruction with `prefix` in front of its last turn; a line break keeps a plain decoder's answer off it."""
    messages = as_messages(instruction)  # an empty one is refused before the prefix fills it
    if isinstance(instruction, str):
        sticks = not encoder_decoder and tokenizer.chat_template is None and not instruction.endswith("\n")
        return prefix + instruction + "\n" * sticks
    messages[-1]["content"] = prefix + messages[-1]["content"]
    return messages


def encode_source(tokenizer: PreTrainedTokenizerBase, instruction: Instruction) -> list[int]:
    """Token ids of an instruction for an encoder: plain text, with what the tokenizer puts around one."""
    ids: list[int] = tokenizer(render_plain(as_messages(instruction), None))["input_ids"]
    return ids


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that a decoder of its own is to write, with the end of sequence."""
    return _ended(tokenizer, tokenizer(text_target=text)["input_ids"])


def encode_exchange(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Instruction,
    responses: Sequence[Instruction],
    system: str | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of several responses to it, each with its end of turn or of sequence.

    Args:
        tokenizer: Its `chat_template` decides the layout; without one a response follows the prompt's text.
        prompt: Text or conversation that ends with the user's turn.
        responses: Texts, or message lists of the assistant's turn.
        system: System prompt, or None to add no system message.

    Returns:
        The prompt's ids, and per response those that follow. Where a template renders a prompt differently when
        it is answered, the responses begin where the two part.
    """
    opened = encode_prompt(tokenizer, prompt, system)
    whole = [_encode_answered(tokenizer, prompt, response, system) for response in responses]
    shared = min(len(os.path.commonprefix([opened, ids])) for ids in whole)
    return opened[:shared], [ids[shared:] for ids in whole]


def _encode_answered(
    tokenizer: PreTrainedTokenizerBase, prompt: Instruction, response: Instruction, system: str | None
) -> list[int]:
    text = answer_text(response)
    if tokenizer.chat_template is None:
        rendered = render_prompt(tokenizer, prompt, system) + text
        return _ended(tokenizer, tokenizer(rendered)["input_ids"])
    answered = render(
        [*placed_messages(tokenizer, prompt, system), {"role": "assistant", "content": text}], tokenizer
    )
    encoded: list[int] = tokenizer(answered, add_special_tokens=False)["input_ids"]
    return encoded


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    ends = tokenizer.eos_token_id
    return ids if ends is None or ids[-1:] == [ends] else [*ids, ends]


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of an answer's token ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
