"""Grades of single answers, from 1 to 10: asked of a chat model, or the rewards of a judge that scores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hf_icon2.judges.chat.records import Chat, ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.judging import Reward, check_columns
from hf_icon2.judges.wording import question_text
from hf_icon2.prompts import Instruction, as_messages
from hf_icon2.storage import shortened

LOWEST, HIGHEST = 1.0, 10.0

AskRating = Callable[[Instruction, str, Sequence[str] | None], Instruction]
"""Prompt, answer, reference answers (one per user turn) or None -> what the judge is asked."""

_MARK = re.compile(r"\[\[\s*([^\[\]]*?)\s*\]\]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Rating(NamedTuple):
    """A grade of one answer.

    Args:
        score: The grade; None where there is none.
        reason: Why there is none.
        stopped: Whether it may be graded later: the batch ended before, or its budget did.
    """

    score: float | None
    reason: str | None = None
    stopped: bool = False


class Rater(Protocol):
    """Grades answers one by one; `ChatRater` and `RewardRater` do."""

    @property
    def scale(self) -> tuple[float, float] | None:
        """Lowest and highest grade possible; None where there are no such ends."""
        ...

    def __call__(
        self,
        prompts: Sequence[Instruction],
        answers: Sequence[str],
        *,
        references: Sequence[Sequence[str] | None] | None = None,
        progress: str | None = None,
    ) -> list[Rating]:
        """Grades each answer.

        Args:
            prompts: Texts, or conversations that end with the user's turn.
            answers: One to each.
            references: Reference answers to each prompt, one per user turn; None where there are none.
            progress: Name of the progress bar; None shows none.
        """
        ...


class ChatRater:
    """Asks a chat endpoint for a grade from 1 to 10, at temperature 0.

    A reply without one clear grade is never guessed at: it becomes a rating with a reason.

    Args:
        chat: Such as `ChatClient("http://127.0.0.1:8000/v1", cache=...)`.
        ask: Words the question; it must ask for a grade like `[[5]]`.
        max_tokens: Longest reply. One that is cut there has not reached its grade.
    """

    scale = (LOWEST, HIGHEST)

    def __init__(self, chat: Chat, *, ask: AskRating | None = None, max_tokens: int = 2048) -> None:
        self.chat = chat
        self.ask = rating_prompt if ask is None else ask
        self.max_tokens = max_tokens

    def __call__(
        self,
        prompts: Sequence[Instruction],
        answers: Sequence[str],
        *,
        references: Sequence[Sequence[str] | None] | None = None,
        progress: str | None = None,
    ) -> list[Rating]:
        """Grades each answer; see `Rater`."""
        references = [None] * len(prompts) if references is None else references
        check_columns(prompts, answers, references)
        requests = [
            ChatRequest(tuple(as_messages(self.ask(*row))), max_tokens=self.max_tokens, temperature=0.0)
            for row in zip(prompts, answers, references, strict=True)
        ]
        return [self._rating(reply) for reply in self.chat.complete(requests, progress=progress)]

    def _rating(self, reply: ChatReply | ChatFailure) -> Rating:
        if isinstance(reply, ChatFailure):
            return Rating(None, reply.reason, reply.stopped)
        if reply.finish_reason == "length":
            return Rating(None, f"the reply was cut at {self.max_tokens} tokens; raise max_tokens")
        score = stated_rating(reply.text)
        if score is None:
            return Rating(
                None, f"the reply has no single grade from 1 to 10 like [[7]]: {shortened(reply.text)}"
            )
        return Rating(score)


class RewardRater:
    """Grades by a reward model or a `RewardJudge`, in its own unit; references are not shown.

    Args:
        reward: Scores answers to prompts.
    """

    scale = None

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(
        self,
        prompts: Sequence[Instruction],
        answers: Sequence[str],
        *,
        references: Sequence[Sequence[str] | None] | None = None,
        progress: str | None = None,
    ) -> list[Rating]:
        """Grades each answer; see `Rater`."""
        check_columns(prompts, answers)
        return [
            Rating(value)
            if math.isfinite(value)
            else Rating(None, f"the reward is {value}, no finite number")
            for value in self.reward(prompts, answers, progress=progress)
        ]


def rating_prompt(prompt: Instruction, answer: str, references: Sequence[str] | None = None) -> Instruction:
    """Asks for a grade of one answer, the last of a conversation."""
    lines = [
        "How good is the last answer below, on a scale from 1 (useless) to 10 (could not be better)? Weigh how true, "
        "complete, relevant, clear and harmless it is, not how long.",
        f"Conversation:\n{question_text(prompt)}",
    ]
    for number, reference in enumerate(references or (), 1):
        which = "" if len(references or ()) == 1 else f" to the user's message {number}"
        lines.append(f"A correct answer{which}, to compare with:\n{reference}")
    lines += [
        f"The answer to grade:\n{answer}",
        "Say in a few sentences what is good and what is wrong about it. End with the grade, one number in double "
        "brackets, such as [[5]].",
    ]
    return "\n\n".join(lines)


def stated_rating(reply: str) -> float | None:
    """The grade in double brackets; None unless there is one number only, from 1 to 10.

    What a model thinks, up to `</think>`, does not count. Other double brackets, such as links, make a reply no less
    clear; a mark that begins like a number, such as `[[7/10]]`, does.
    """
    said = reply.rpartition("</think>")[2].partition("<think>")[0]
    marks = {mark for mark in _MARK.findall(said) if mark[:1].isdigit() or mark[:1] in ("-", "+", ".")}
    if len(marks) != 1:
        return None
    (mark,) = marks
    if not _NUMBER.fullmatch(mark) or not mark.isascii():
        return None
    score = float(mark)
    return score if LOWEST <= score <= HIGHEST else None
