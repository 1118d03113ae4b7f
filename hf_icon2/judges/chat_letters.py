"""The judge of `letters` behind a chat endpoint that returns log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_icon2.judges.chat.records import Chat, ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.prompts import Instruction, as_messages

_MOST_ALTERNATIVES = 20  # what such endpoints return at most

_NO_LOG_PROBABILITIES = ChatFailure(
    "the endpoint returned no log-probabilities; use one that supports logprobs and top_logprobs, a local model, or, "
    "to compare pairs, read='text' (--read text)"
)


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
        found = []
        for choice in self.choices(questions, progress=progress):
            if choice is _NO_LOG_PROBABILITIES:
                raise ValueError(_NO_LOG_PROBABILITIES.reason)
            if isinstance(choice, ChatFailure):
                raise ConnectionError(
                    f"the chat endpoint gives no answer ({choice.reason}); check its address and that it serves "
                    "/v1/chat/completions"
                )
            found.append(choice)
        return found

    def choices(
        self, questions: Sequence[Instruction], *, progress: str | None = None
    ) -> list[LetterChoice | ChatFailure]:
        """The same, with a failure in the place of what would raise.

        Args:
            questions: Text or conversations, each asking for one of the two letters.
            progress: Name of the progress bar; None shows none.
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

    def _choice(self, reply: ChatReply | ChatFailure) -> LetterChoice | ChatFailure:
        if isinstance(reply, ChatFailure):
            return reply
        if not reply.alternatives:
            return _NO_LOG_PROBABILITIES
        first, second = (
            sum(math.exp(value) for token, value in reply.alternatives if token.strip().lower() == letter)
            for letter in self.letters
        )
        mass = first + second
        return LetterChoice(first / mass if mass > 0 else 0.5, mass)
