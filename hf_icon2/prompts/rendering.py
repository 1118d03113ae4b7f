"""Conversations as text, by the tokenizer's own chat template; what the text says is left to others."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from hf_icon2.prompts.messages import Instruction, Message, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "icon2sentinel"
"""A text to find again in what a template makes of it."""

_PLACEHOLDER = "{instruction}"


def has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is a chat template that renders a system message (some raise, some drop it)."""
    if tokenizer.chat_template is None:
        return False
    messages = [{"role": "system", "content": SENTINEL}, {"role": "user", "content": "hi"}]
    try:
        return SENTINEL in tokenizer.apply_chat_template(messages, tokenize=False)
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
    second = f"second {SENTINEL}"
    turns = [
        {"role": "user", "content": SENTINEL},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": second},
    ]
    prefix = render(turns[:1], tokenizer).partition(SENTINEL)[0].removeprefix(tokenizer.bos_token or "")
    later = render(turns, tokenizer).partition(second)[0]
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
        return render_plain(as_messages(instruction), system)
    return render(placed_messages(tokenizer, instruction, system), tokenizer, add_generation_prompt=True)


def placed_messages(
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


def template_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the chat template, or of the word `none` for a base model."""
    template = tokenizer.chat_template
    return hashlib.sha256(str("none" if template is None else template).encode()).hexdigest()


def render(
    messages: list[Message], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool = False
) -> str:
    """What the chat template makes of a conversation."""
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    )


def render_plain(messages: list[Message], system: str | None) -> str:
    """The one instruction with the system text before or around it, for a model without a chat template."""
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
