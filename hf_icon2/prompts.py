"""How a question reaches a model: rendering with the tokenizer's own chat template, and batches of token ids.

Everything that turns text into ids goes through here, so that extraction, consistency, pairs and training
cannot disagree on the template. What the text says is left to others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Instruction = str | list[Message]
"""A question as text, or a conversation that ends with the user's turn."""

_SENTINEL = "icon2sentinel"
_PLACEHOLDER = "{instruction}"


def refuse_one_text(instructions: object) -> None:
    """Raises TypeError for one text where many are wanted: its letters would pass for instructions."""
    if isinstance(instructions, str):
        raise TypeError("instructions must be a list of texts or a dataset, got one string; pass [text]")


def as_messages(instruction: Instruction) -> list[Message]:
    """The instruction as a message list; a bare string becomes one user turn."""
    if isinstance(instruction, str):
        if not instruction.strip():
            raise ValueError("an instruction is empty; remove empty rows before calling")
        return [{"role": "user", "content": instruction}]
    if not isinstance(instruction, list):
        raise TypeError(
            f"an instruction is text or a list of messages, got {type(instruction).__name__}; of a dataset "
            "pass one column, like list(dataset['prompt'])"
        )
    if not instruction or instruction[-1].get("role") != "user":
        raise ValueError(f"a conversation must end with a user turn, got {instruction!r}")
    return [dict(message) for message in instruction]


def has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is a chat template that renders a system message (some raise, some drop it)."""
    if tokenizer.chat_template is None:
        return False
    messages = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "hi"}]
    try:
        return _SENTINEL in tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        return False


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template itself puts before the first user turn when nobody asked for a system prompt.

    Returns:
        The text between the start of the conversation and the user's own header, empty for most templates.
        Templates that inject one steer every "unprompted" measurement; callers report it.
    """
    if tokenizer.chat_template is None:
        return ""
    second = f"second {_SENTINEL}"
    turns = [
        {"role": "user", "content": _SENTINEL},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": second},
    ]
    prefix = _render(turns[:1], tokenizer).partition(_SENTINEL)[0].removeprefix(tokenizer.bos_token or "")
    later = _render(turns, tokenizer).partition(second)[0]
    header = os.path.commonprefix([prefix[::-1], later[::-1]])  # what stands before every user turn
    injected = prefix[: len(prefix) - len(header)]
    for token in tokenizer.all_special_tokens:
        injected = injected.replace(token, "")
    return injected.strip() if any(character.isalpha() for character in injected) else ""


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, instruction: Instruction, system: str | None = None
) -> str:
    """The text a model is given: system side, instruction, and the header of the answer.

    Without a system role the system text is folded into the first user turn. Without a chat template it is
    put before the instruction, or around it where it contains `{instruction}`. A system message that the
    conversation brings along follows `system`.

    Args:
        tokenizer: Its `chat_template` decides the layout.
        instruction: Text or conversation that ends with the user's turn.
        system: System prompt, or None to add no system message.

    Raises:
        ValueError: For an empty instruction, or a conversation where there is no chat template.
    """
    if tokenizer.chat_template is None:
        return _render_plain(as_messages(instruction), system)
    return _render(_messages(tokenizer, instruction, system), tokenizer, add_generation_prompt=True)


def _messages(
    tokenizer: PreTrainedTokenizerBase, instruction: Instruction, system: str | None
) -> list[Message]:
    """The conversation with its system side where the template takes it."""
    messages = as_messages(instruction)
    texts = [] if system is None else [system]
    if messages[0]["role"] == "system":
        texts.append(messages.pop(0)["content"])
    if texts and has_system_role(tokenizer):
        messages.insert(0, {"role": "system", "content": "\n\n".join(texts)})
    elif texts:
        messages[0]["content"] = "\n\n".join([*texts, messages[0]["content"]])
    return messages


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
    ids: list[int] = tokenizer(_render_plain(as_messages(instruction), None))["input_ids"]
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


def answer_text(response: Instruction) -> str:
    """Text of a response: the text itself, or that of its one assistant message.

    Raises:
        ValueError: For several messages or another role; tool turns belong to the prompt.
    """
    if isinstance(response, str):
        return response
    roles = [message.get("role", "assistant") for message in response or ()]
    if roles != ["assistant"]:
        raise ValueError(
            f"a response has the messages {', '.join(roles) or 'none'}; allowed: text, or one assistant message "
            "(earlier turns belong to the prompt)"
        )
    return response[0]["content"] or ""


def _encode_answered(
    tokenizer: PreTrainedTokenizerBase, prompt: Instruction, response: Instruction, system: str | None
) -> list[int]:
    text = answer_text(response)
    if tokenizer.chat_template is None:
        rendered = render_prompt(tokenizer, prompt, system) + text
        return _ended(tokenizer, tokenizer(rendered)["input_ids"])
    answered = _render(
        [*_messages(tokenizer, prompt, system), {"role": "assistant", "content": text}], tokenizer
    )
    encoded: list[int] = tokenizer(answered, add_special_tokens=False)["input_ids"]
    return encoded


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    ends = tokenizer.eos_token_id
    return ids if ends is None or ids[-1:] == [ends] else [*ids, ends]


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of an answer's token ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def pre_query_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """The rendered conversation up to where the user's text would start (Icon², section 3.2).

    Found by rendering a sentinel user turn and cutting at the sentinel, so it fits any chat template.

    Raises:
        ValueError: If the tokenizer has no chat template, or its template rewrites the user's text.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "this tokenizer has no chat template, so there is no pre-query template to sample instructions "
            "from; pass your own instructions, or set tokenizer.chat_template"
        )
    text = _render([{"role": "user", "content": _SENTINEL}], tokenizer)
    if text.count(_SENTINEL) != 1:
        raise ValueError(
            f"the chat template shows the user's text {text.count(_SENTINEL)} times; a pre-query template "
            "needs exactly one"
        )
    return text.partition(_SENTINEL)[0]


def template_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the chat template, or of the word `none` for a base model."""
    template = tokenizer.chat_template
    return hashlib.sha256(str("none" if template is None else template).encode()).hexdigest()


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding id; falls back to the end-of-sequence id, which the attention mask makes harmless."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def pad_batch(rows: Sequence[Sequence[int]], pad: int, *, side: str) -> tuple[Tensor, Tensor]:
    """Stacks id lists of different lengths.

    Args:
        rows: B lists of token ids.
        pad: Id that fills the gaps.
        side: "left" for generation, "right" for reading states.

    Returns:
        Ids and attention mask (1 for real tokens), both (B, T) int64.
    """
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = 1
    return ids, mask


def _render(
    messages: list[Message], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool = False
) -> str:
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    )


def _render_plain(messages: list[Message], system: str | None) -> str:
    if len(messages) != 1:
        raise ValueError(
            f"a conversation of {len(messages)} turns needs a chat template, and this tokenizer has none; "
            "pass single instructions, or set tokenizer.chat_template"
        )
    text = messages[0]["content"]
    if system is None:
        return text
    if _PLACEHOLDER in system:
        return system.replace(_PLACEHOLDER, text)
    return f"{system}\n{text}"
