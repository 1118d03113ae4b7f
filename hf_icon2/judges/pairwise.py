"""Which of two answers is better, asked in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_icon2.judges.chat.records import Chat, ChatFailure
from hf_icon2.judges.chat_letters import ChatLetterJudge
from hf_icon2.judges.chat_verdicts import ChatVerdictJudge
from hf_icon2.judges.judging import Judge, check_columns
from hf_icon2.judges.verdicts import LEAST_MASS, Comparison, LetterChoice
from hf_icon2.judges.wording import Ask, compare_prompt, question_text
from hf_icon2.prompts import Instruction, answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_icon2.judges.chat.budget import Budget

Chooser = Callable[..., Sequence[LetterChoice | ChatFailure]]
"""Maps questions that ask for A or B to what was chosen; takes `progress=` if `compare` is given one."""

Read = Literal["text", "logprobs"]
"""Where the verdict of a chat model is read: in its reply, or in the probabilities of the reply's first token."""


class PairwiseJudge(Judge):
    """Asks about two answers in both orders, and abstains where the verdicts contradict each other.

    Each comparison costs two questions. Two equal answers are a tie, and nobody is asked. One bad reply never
    raises: it becomes a comparison with a `reason`.

    Args:
        choose: Maps questions to letters: `LetterJudge`, `ChatLetterJudge`, `ChatVerdictJudge`, or any function.
        ask: Words the question; it must ask for A (the answer given first) or B.
    """

    def __init__(self, choose: Chooser, *, ask: Ask = compare_prompt) -> None:
        # Asked for its letters one by one, a chat judge raises at the first that is missing.
        self.choose = choose.choices if isinstance(choose, ChatLetterJudge) else choose
        self.ask = ask

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ask: Ask = compare_prompt,
        system: str | None = None,
    ) -> PairwiseJudge:
        """A local model that judges by the probabilities of the letters (Self-Rewarding: the student itself).

        Args:
            model: Causal LM in eval mode.
            tokenizer: Its tokenizer.
            ask: Words the question.
            system: System prompt, or None.
        """
        from hf_icon2.judges.letters import LetterJudge

        return cls(LetterJudge(model, tokenizer, system=system), ask=ask)

    @classmethod
    def from_chat(
        cls,
        chat: Chat,
        *,
        read: Read = "text",
        ask: Ask = compare_prompt,
        system: str | None = None,
        max_tokens: int = 1024,
    ) -> PairwiseJudge:
        """A chat model behind a client of your own making, such as `ChatClient(..., budget=...)`.

        Args:
            chat: Answers the requests.
            read: "text" works with every endpoint; "logprobs" gives probabilities where the endpoint returns
                log-probabilities, and costs one token of reply.
            ask: Words the question.
            system: System prompt, or None.
            max_tokens: Longest reply that is read as text; models that think need more.
        """
        if read not in ("text", "logprobs"):
            raise ValueError(f"read={read!r}; allowed: 'text' and 'logprobs'")
        if read == "logprobs":
            return cls(ChatLetterJudge(chat, system=system), ask=ask)
        return cls(ChatVerdictJudge(chat, system=system, max_tokens=max_tokens), ask=ask)

    @classmethod
    def from_endpoint(
        cls,
        endpoint: str | None = None,
        model: str | None = None,
        *,
        read: Read = "text",
        ask: Ask = compare_prompt,
        cache: Path | str | None = None,
        budget: Budget | None = None,
    ) -> PairwiseJudge:
        """A chat model behind an OpenAI-compatible endpoint; more settings with `ChatClient` and `from_chat`.

        Args:
            endpoint: Address such as "http://127.0.0.1:8000/v1"; None for the Hub's inference providers.
            model: Name of the model at the endpoint.
            read: See `from_chat`.
            ask: Words the question.
            cache: File that keeps replies, so that none is paid for twice.
            budget: The most to spend.
        """
        from hf_icon2.judges.chat.client import ChatClient

        return cls.from_chat(ChatClient(endpoint, model, cache=cache, budget=budget), read=read, ask=ask)

    def compare(
        self,
        questions: Sequence[Instruction],
        firsts: Sequence[Instruction],
        seconds: Sequence[Instruction],
        *,
        progress: str | None = None,
    ) -> list[Comparison]:
        """Compares two answers to each question; see `Judge`."""
        check_columns(questions, firsts, seconds)
        triples = [
            (question_text(question), answer_text(first), answer_text(second))
            for question, first, second in zip(questions, firsts, seconds, strict=True)
        ]
        different = [index for index, (_, first, second) in enumerate(triples) if first != second]
        asked = [
            self.ask(question, *answers)
            for question, first, second in (triples[index] for index in different)
            for answers in ((first, second), (second, first))
        ]
        choices = self._choices(asked, progress)
        result = [Comparison(0.5, 0.5)] * len(triples)
        for index, forward, backward in zip(different, choices[::2], choices[1::2], strict=True):
            result[index] = _comparison(forward, backward)
        return result

    def _choices(
        self, asked: list[Instruction], progress: str | None
    ) -> Sequence[LetterChoice | ChatFailure]:
        if not asked:
            return []
        return self.choose(asked) if progress is None else self.choose(asked, progress=progress)


def _comparison(forward: LetterChoice | ChatFailure, backward: LetterChoice | ChatFailure) -> Comparison:
    """Joins what was chosen with the first answer shown as A, and with it shown as B."""
    first, second = _readable(forward), _readable(backward)
    failure = next((item for item in (first, second) if isinstance(item, ChatFailure)), None)
    return Comparison(
        None if isinstance(first, ChatFailure) else first,
        None if isinstance(second, ChatFailure) else 1 - second,
        None if failure is None else failure.reason,
        failure is not None and failure.stopped,
    )


def _readable(choice: LetterChoice | ChatFailure) -> float | ChatFailure:
    """The probability of A, unless the two letters are too unlikely to mean anything."""
    if isinstance(choice, ChatFailure):
        return choice
    if choice.mass < LEAST_MASS:
        return ChatFailure(
            f"the letters A and B have less than {LEAST_MASS:g} of the probability; take another model or wording "
            "(ask=), or, at an endpoint, read='text' (--read text)"
        )
    return choice.probability
