"""The judge of `letters` behind an OpenAI-compatible endpoint that returns log-probabilities."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.prompts import Instruction, as_messages

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

_WAITS = (1.0, 4.0)
"""Seconds before asking again; a run asks thousands of times, and one lost request must not end it."""

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

        A request that fails for a reason that may pass (no connection, no answer in time, status 408, 429 or 5xx)
        is made again, twice.

        Raises:
            ConnectionError: If the endpoint cannot be reached or refuses the request.
            ValueError: If the endpoint returns no log-probabilities; some accept the request and ignore it.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._ask, questions))

    def _ask(self, question: Instruction) -> LetterChoice:
        reply = self._reply(question)
        found = reply.choices[0].logprobs if reply.choices else None
        if found is None or not found.content or not found.content[0].top_logprobs:
            raise ValueError(
                "the endpoint returned no log-probabilities, which the selection score is made of; use an "
                "endpoint that supports logprobs and top_logprobs, or a local model"
            )
        return self._choice(found.content[0].top_logprobs)

    def _reply(self, question: Instruction) -> Any:  # noqa: ANN401  (a chat completion)
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's

        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        for wait in (*_WAITS, None):
            try:
                return self.client.chat_completion(
                    [*system, *as_messages(question)],
                    model=self.model,
                    max_tokens=1,
                    temperature=1.0,
                    logprobs=True,
                    top_logprobs=_MOST_ALTERNATIVES,
                )
            except HTTPError as error:
                if wait is None or not _may_pass(error):
                    raise ConnectionError(
                        f"the chat endpoint gives no answer ({error}); check its address and that it serves "
                        "/v1/chat/completions"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _choice(self, alternatives: Sequence[Any]) -> LetterChoice:
        first, second = (
            sum(math.exp(item.logprob) for item in alternatives if item.token.strip().lower() == letter)
            for letter in self.letters
        )
        mass = first + second
        return LetterChoice(first / mass if mass > 0 else 0.5, mass)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: without an answer, or a busy or failing server's."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status in (408, 429) or status >= 500
