"""The judge of `letters` behind a chat endpoint that returns log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_icon2.judges.chat.records import Chat, ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.prompts import Instruction, as_messages

_MOST_ALTERNATIVES = 20  # what such endpoints return at most


class ChatLetterJudge:
    """Asks a chat endpoint for one token and reads the probabilities of its alternatives.

    Args:
        chat: For instance `ChatClient("http://127.0.0.1:8000/v1")`.
        letters: First and second; in either case, with or without spaces around them.
        system: System prompt, or None.
    """

    def __init__(
        self, chat: Chat, *, letters: tuple[str, str] = ("A", "B"), system: str | None = None
    ) -> None:
        self.chat = chat
        self.letters = tuple(letter.lower() for letter in letters)
        self.system = system

    def __call__(
        self, questions: Sequence[Instruction], *, progress: str | None = None
    ) -> list[LetterChoice]:
        """Asks all questions.

        Args:
            questions: Text or conversations, each asking for one of the two letters.
            progress: Name of the progress bar; None shows none.

        Raises:
            ConnectionError: If a question gets no reply, by the reason of the first.
            ValueError: If the endpoint returns no log-probabilities; some accept the request and ignore it.
        """
        replies = self.chat.complete([self._request(question) for question in questions], progress=progress)
        return [self._choice(reply) for reply in replies]

    def _request(self, question: Instruction) -> ChatRequest:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return ChatRequest(
            (*system, *as_messages(question)),
            max_tokens=1,
            temperature=1.0,
            top_logprobs=_MOST_ALTERNATIVES,
        )

    def _choice(self, reply: ChatReply | ChatFailure) -> LetterChoice:
        if isinstance(reply, ChatFailure):
            raise ConnectionError(
                f"the chat endpoint gives no answer ({reply.reason}); check its address and that it serves "
                "/v1/chat/completions"
            )
        if not reply.alternatives:
            raise ValueError(
                "the endpoint returned no log-probabilities, which the selection score is made of; use an "
                "endpoint that supports logprobs and top_logprobs, or a local model"
            )
        first, second = (
            sum(math.exp(value) for token, value in reply.alternatives if token.strip().lower() == letter)
            for letter in self.letters
        )
        mass = first + second
        return LetterChoice(first / mass if mass > 0 else 0.5, mass)
