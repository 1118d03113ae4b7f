"""The judge of `letters` behind an OpenAI-compatible endpoint that returns log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hf_icon2.judges.letters import LetterChoice
from hf_icon2.prompts import Instruction, as_messages

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

_MOST_ALTERNATIVES = 20  # what such endpoints return at most


class ChatLetterJudge:
    """Asks a chat endpoint for one token and reads the probabilities of its alternatives.

    Args:
        client: For instance `InferenceClient(base_url="http://127.0.0.1:8000/v1")`.
        model: Name of the model at the endpoint, where it serves several.
        letters: First and second; in either case, with or without spaces around them.
        system: System prompt, or None.
        concurrency: Requests at a time.
    """

    def __init__(
        self,
        client: InferenceClient,
        *,
        model: str | None = None,
        letters: tuple[str, str] = ("A", "B"),
        system: str | None = None,
        concurrency: int = 8,
    ) -> None:
        self.client = client
        self.model = model
        self.letters = tuple(letter.lower() for letter in letters)
        self.system = system
        self.concurrency = concurrency

    def __call__(self, questions: Sequence[Instruction]) -> list[LetterChoice]:
        """Asks all questions.

        Raises:
            ValueError: If the endpoint returns no log-probabilities; some accept the request and ignore it.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._ask, questions))

    def _ask(self, question: Instruction) -> LetterChoice:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        reply = self.client.chat_completion(
            [*system, *as_messages(question)],
            model=self.model,
            max_tokens=1,
            temperature=1.0,
            logprobs=True,
            top_logprobs=_MOST_ALTERNATIVES,
        )
        found = reply.choices[0].logprobs
        if found is None or not found.content:
            raise ValueError(
                "the endpoint returned no log-probabilities, which the selection score is made of; use an "
                "endpoint that supports logprobs and top_logprobs, or a local model"
            )
        return self._choice(found.content[0].top_logprobs)

    def _choice(self, alternatives: Sequence[Any]) -> LetterChoice:
        first, second = (
            sum(math.exp(item.logprob) for item in alternatives if item.token.strip().lower() == letter)
            for letter in self.letters
        )
        mass = first + second
        return LetterChoice(first / mass if mass > 0 else 0.5, mass)
