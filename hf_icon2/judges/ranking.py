"""A chat model that ranks several answers at once, with demonstrations in its prompt (CycleAlign's black box).

Asking twice, the shuffled seats, and what becomes of two replies that differ are our choices; of the paper's prompt
only its parts are known.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase as LETTERS
from typing import Protocol

from hf_icon2.judges.chat.records import Chat, ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.ranking_prompt import CRITERIA, prompt_opening, prompt_query, seating
from hf_icon2.judges.ranking_replies import Order, kendall_tau, mean_beaten, parse_ranking
from hf_icon2.judges.verdicts import Demonstration, Ranking

logger = logging.getLogger(__name__)

_ROUNDING = 1e-9


class Ranker(Protocol):
    """Whatever ranks answers; `RankingJudge` does."""

    def rank(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        demonstrations: Sequence[Demonstration] = (),
        *,
        progress: str | None = None,
    ) -> list[Ranking]:
        """Ranks the answers to each question.

        Args:
            questions: What was asked.
            answers: Per question K answers.
            demonstrations: Examples to judge by; a ranker may ignore them.
            progress: Name of the progress bar; None shows none.
        """
        ...


class RankingJudge:
    """Asks a chat model for the order of K answers, twice, the second time from the last seat to the first.

    A question is dropped, and counted by its reason, if a reply is not exactly one ranking line or if the two
    contradict each other. Otherwise an answer's score is the number of others it beats, on average over both, so
    that a preference for the seats at one end cancels.

    Args:
        chat: Answers the requests; a `ChatClient`.
        seed: Of the order in which answers are shown, which depends on the texts only: the same question is the same
            request in any batch.
        least_tau: Least Kendall tau between both replies, -1 to 1; below it they contradict each other. 1 accepts
            equal replies only; 0.6 lets four answers have one pair of neighbours swapped (tau 0.667), and two and
            three answers none.
        max_tokens: Longest reply; models that think before they reply need more.
        system: System prompt, or None.
        criteria: What makes an answer better, as the end of "An answer is the better, the more ...".
    """

    def __init__(
        self,
        chat: Chat,
        *,
        seed: int = 0,
        least_tau: float = 0.6,
        max_tokens: int = 256,
        system: str | None = None,
        criteria: str = CRITERIA,
    ) -> None:
        if not -1 <= least_tau <= 1:
            raise ValueError(f"least_tau={least_tau} is no Kendall tau; allowed: -1 to 1")
        self.chat = chat
        self.seed = seed
        self.least_tau = least_tau
        self.max_tokens = max_tokens
        self.system = system
        self.criteria = criteria

    def rank(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        demonstrations: Sequence[Demonstration] = (),
        *,
        progress: str | None = None,
    ) -> list[Ranking]:
        """Ranks the answers to each question.

        Args:
            questions: What was asked.
            answers: Per question 2 to 26, none empty and none twice.
            demonstrations: Shown in the prompt in this order, their answers shuffled.
            progress: Name of the progress bar; None shows none.

        Returns:
            Per question its scores, 0 to K - 1, or why there are none: the reason of a request that failed, a reply
            that cannot be read, or a contradiction.

        Raises:
            ValueError: If numbers of questions and answers differ, or answers are not as said; nothing is asked then.
        """
        _check(questions, answers, demonstrations)
        opening = prompt_opening(demonstrations, seed=self.seed, criteria=self.criteria)
        rows = list(zip(questions, answers, strict=True))
        forward = [seating(question, given, self.seed) for question, given in rows]
        seated = [(seats, seats[::-1]) for seats in forward]
        requests = [
            self._request(opening, question, [given[index] for index in seats])
            for (question, given), both in zip(rows, seated, strict=True)
            for seats in both
        ]
        replies = self.chat.complete(requests, progress=progress)
        pairs = zip(replies[::2], replies[1::2], strict=True)
        rankings = [self._ranking(both, pair) for both, pair in zip(seated, pairs, strict=True)]
        _warn_of_dropped(rankings)
        return rankings

    def _request(self, opening: str, question: str, shown: Sequence[str]) -> ChatRequest:
        prompt = {"role": "user", "content": f"{opening}\n\n{prompt_query(question, shown)}"}
        system = () if self.system is None else ({"role": "system", "content": self.system},)
        return ChatRequest((*system, prompt), max_tokens=self.max_tokens)

    def _ranking(self, seated: Sequence[Order], replies: Sequence[ChatReply | ChatFailure]) -> Ranking:
        """What the replies about one question say together; `seated` tells who sat where, for each reply."""
        read = [self._read(reply, seats) for reply, seats in zip(replies, seated, strict=True)]
        failures = [one for one in read if isinstance(one, ChatFailure)]
        if failures:
            # What failed for good decides: the other reply, should it still come, cannot help.
            worst = min(failures, key=lambda failure: failure.stopped)
            return Ranking(None, worst.reason, worst.stopped)
        orders = [one for one in read if not isinstance(one, ChatFailure)]
        tau = kendall_tau(*orders)
        if tau < self.least_tau - _ROUNDING:
            return Ranking(
                None,
                f"the two replies contradict each other: Kendall tau {tau:.2f}, at least {self.least_tau:g} is asked",
            )
        return Ranking(mean_beaten(orders))

    def _read(self, reply: ChatReply | ChatFailure, seats: Order) -> Order | ChatFailure:
        if isinstance(reply, ChatFailure):
            return reply
        try:
            return tuple(seats[seat] for seat in parse_ranking(reply.text, len(seats)))
        except ValueError as error:
            cut = reply.finish_reason == "length"
            hint = f"; it was cut at max_tokens={self.max_tokens}, raise it" if cut else ""
            return ChatFailure(f"{error}{hint}")


def count_reasons(rankings: Sequence[Ranking]) -> dict[str, int]:
    """How many questions have no ranking, by the reason up to its first colon; the most frequent first."""
    reasons = (ranking.reason or "" for ranking in rankings if ranking.scores is None)
    return dict(Counter(reason.partition(":")[0] for reason in reasons).most_common())


def _warn_of_dropped(rankings: Sequence[Ranking]) -> None:
    counts = count_reasons(rankings)
    if counts:
        logger.warning(
            "%d of %d questions have no ranking: %s",
            sum(counts.values()),
            len(rankings),
            "; ".join(f"{reason} ({count})" for reason, count in counts.items()),
        )


def _check(
    questions: Sequence[str], answers: Sequence[Sequence[str]], demonstrations: Sequence[Demonstration]
) -> None:
    if len(questions) != len(answers):
        raise ValueError(
            f"got {len(questions)} questions and {len(answers)} lists of answers; pass one list each"
        )
    for index, (question, given) in enumerate(zip(questions, answers, strict=True)):
        _check_exchange(f"question {index}", question, given)
    for index, one in enumerate(demonstrations):
        _check_exchange(f"demonstration {index}", one.question, one.answers)


def _check_exchange(name: str, question: str, answers: Sequence[str]) -> None:
    if not isinstance(question, str):
        raise TypeError(f"{name} is no text but {type(question).__name__}; pass the text of a conversation")
    if not question.strip():
        raise ValueError(f"{name} is empty; leave it out")
    if isinstance(answers, str):
        raise TypeError(f"{name} has one text where its answers are wanted; pass a list of texts")
    if not 2 <= len(answers) <= len(LETTERS):
        raise ValueError(f"{name} has {len(answers)} answers; allowed: 2 to {len(LETTERS)}")
    if not all(isinstance(answer, str) for answer in answers):
        raise TypeError(f"{name} has an answer that is no text; leave it out")
    if any(not answer.strip() for answer in answers):
        raise ValueError(f"{name} has an empty answer; leave it out")
    if len(set(answers)) < len(answers):
        raise ValueError(f"{name} has the same answer twice; keep one of them")
