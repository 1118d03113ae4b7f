"""What is asked of a chat endpoint, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_icon2.prompts import Message


@dataclass(frozen=True)
class ChatRequest:
    """One request; two that are equal are one, and the second is answered from what is known.

    Args:
        messages: The conversation, its last turn the user's.
        max_tokens: Longest reply in tokens.
        temperature: 0 for the most likely reply.
        top_p: Nucleus of the sampling; None leaves it to the endpoint.
        seed: Of the sampling; None leaves it to the endpoint.
        top_logprobs: How many alternatives of the reply's first token to return, with their log-probabilities.
        repeat: Tells requests apart that are equal otherwise, to ask the same again; not sent.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    repeat: int = 0

    def __post_init__(self) -> None:
        # Whoever writes a script without types passes a text, or one message.
        fine = isinstance(self.messages, Sequence) and all(_is_message(each) for each in self.messages)
        if not fine or not self.messages:
            raise ValueError(
                "messages must be one or more dicts of texts, like {'role': 'user', 'content': 'Hi'}"
            )
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens!r} is not allowed; give 1 or more")


def _is_message(value: object) -> bool:
    return (
        isinstance(value, Mapping) and bool(value) and all(isinstance(text, str) for text in value.values())
    )


@dataclass(frozen=True)
class ChatReply:
    """An endpoint's reply.

    Args:
        text: What it says.
        finish_reason: Why it ends: "stop", "length", or None.
        alternatives: Tokens that the reply could have begun with and their log-probabilities in nats; empty where
            they were not asked for, or the endpoint has none.
        prompt_tokens: Tokens read, as counted by the endpoint; 0 where it does not say.
        completion_tokens: Tokens written.
    """

    text: str
    finish_reason: str | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class ChatFailure:
    """Why a request has no reply.

    Args:
        reason: A sentence.
        stopped: Whether it may be answered later: the batch ended before, or its budget did.
    """

    reason: str
    stopped: bool = False


class Chat(Protocol):
    """Answers chat requests; `ChatClient` does."""

    def complete(
        self, requests: Sequence[ChatRequest], *, progress: str | None = None
    ) -> list[ChatReply | ChatFailure]:
        """Answers all requests, in their order.

        Args:
            requests: What to ask.
            progress: Name of the progress bar; None shows none.
        """
        ...
