"""What is said: instructions, conversations and responses as message lists."""

from __future__ import annotations

Message = dict[str, str]
Instruction = str | list[Message]
"""A question as text, or a conversation that ends with the user's turn."""


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


def user_texts(instruction: Instruction) -> list[str]:
    """What the user says in it, turn by turn."""
    return [message["content"] for message in as_messages(instruction) if message["role"] == "user"]
