"""Verdicts read from what a chat model says: for endpoints without log-probabilities, and for models that think."""

from __future__ import annotations

from collections.abc import Sequence

from hf_icon2.judges.chat.records import Chat, ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.replies import stated_letter
from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.prompts import Instruction, as_messages
from hf_icon2.storage import shortened


class ChatVerdictJudge:
    """Asks a chat endpoint which of two answers is better, and reads the letter from the reply's text.

    Args:
        chat: Such as `ChatClient("http://127.0.0.1:8000/v1")`.
        system: System prompt, or None.
        max_tokens: Longest reply. One that is cut there has not reached its verdict and counts as unreadable.
    """

    def __init__(self, chat: Chat, *, system: str | None = None, max_tokens: int = 1024) -> None:
        self.chat = chat
        self.system = system
        self.max_tokens = max_tokens

    def __call__(
        self, questions: Sequence[Instruction], *, progress: str | None = None
    ) -> list[LetterChoice | ChatFailure]:
        """Asks all questions, at temperature 0.

        Args:
            questions: Text or conversations, each asking for A or B.
            progress: Name of the progress bar; None shows none.

        Returns:
            A choice of probability 1 or 0 for each reply that names a letter; else why there is none.
        """
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        requests = [
            ChatRequest((*system, *as_messages(question)), max_tokens=self.max_tokens, temperature=0.0)
            for question in questions
        ]
        return [self._choice(reply) for reply in self.chat.complete(requests, progress=progress)]

    def _choice(self, reply: ChatReply | ChatFailure) -> LetterChoice | ChatFailure:
        if isinstance(reply, ChatFailure):
            return reply
        if reply.finish_reason == "length":
            return ChatFailure(f"the reply was cut at {self.max_tokens} tokens; raise max_tokens")
        letter = stated_letter(reply.text)
        if letter is None:
            return ChatFailure(f"the reply names neither A nor B as the better: {shortened(reply.text)}")
        return LetterChoice(float(letter == "A"), 1.0)
