"""What every judge of two answers can do: compare, rank several by all their pairs, be calibrated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, combinations, pairwise
from typing import Any, Protocol

from hf_icon2.judges.calibration import Calibration, calibrated
from hf_icon2.judges.labelled import labelled_pairs
from hf_icon2.judges.verdicts import Comparison, Demonstration, Ranking
from hf_icon2.prompts import Instruction


class Judge(ABC):
    """Says which of two answers is better."""

    @abstractmethod
    def compare(
        self,
        questions: Sequence[Instruction],
        firsts: Sequence[Instruction],
        seconds: Sequence[Instruction],
        *,
        progress: str | None = None,
    ) -> list[Comparison]:
        """Compares two answers to each question.

        Args:
            questions: Texts, or conversations that end with the user's turn.
            firsts: One answer to each; text, or one assistant message.
            seconds: The other answers.
            progress: Name of the progress bar; None shows none.

        Raises:
            TypeError: If one text is given where lists are wanted.
            ValueError: If they differ in length.
        """

    def calibrate(self, pairs: Iterable[Mapping[str, Any]], *, progress: str | None = None) -> Calibration:
        """Judges pairs of which the better answer is known, in both orders.

        Args:
            pairs: Rows, such as a `datasets.Dataset`, with the columns prompt, chosen, rejected as in TRL, or
                question, first, second and label (1 or 2: which is better).
            progress: Name of the progress bar; None shows none.

        Raises:
            ValueError: If there are no rows, or one lacks a column.
        """
        rows = labelled_pairs(pairs)
        found = self.compare(
            [row.question for row in rows],
            [row.first for row in rows],
            [row.second for row in rows],
            progress=progress,
        )
        return calibrated(found, [row.better for row in rows])

    def rank(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        demonstrations: Sequence[Demonstration] = (),
        *,
        progress: str | None = None,
    ) -> list[Ranking]:
        """Ranks several answers to each question by comparing all pairs of them, in both orders.

        An answer's score is its mean probability to win over the others; for judges that only say which is better
        that is Copeland's score. A pair without a verdict counts one half to both.

        Args:
            questions: What was asked.
            answers: K per question, 2 or more; K may differ.
            demonstrations: Not shown: comparing needs none. They are here so that all judges can be called alike.
            progress: Name of the progress bar; None shows none.
        """
        check_columns(questions, answers)
        rows = list(zip(questions, answers, strict=True))
        pairs = [
            (index, *pair)
            for index, (_, texts) in enumerate(rows)
            for pair in combinations(range(len(texts)), 2)
        ]
        found = self.compare(
            [questions[index] for index, _, _ in pairs],
            [answers[index][first] for index, first, _ in pairs],
            [answers[index][second] for index, _, second in pairs],
            progress=progress,
        )
        by_question: list[dict[tuple[int, int], Comparison]] = [{} for _ in answers]
        for (index, first, second), comparison in zip(pairs, found, strict=True):
            by_question[index][first, second] = comparison
        return [
            round_robin(len(texts), comparisons)
            for texts, comparisons in zip(answers, by_question, strict=True)
        ]


def check_columns(questions: Sequence[Any], *answers: Sequence[Any]) -> None:
    """Refuses what is not as many answers as questions, each a list."""
    if any(isinstance(column, str) for column in (questions, *answers)):
        raise TypeError(
            "questions and answers are lists with one item per question, got one text; pass [text]"
        )
    if len({len(questions), *map(len, answers)}) > 1:
        given = " and ".join(str(len(column)) for column in answers)
        raise ValueError(
            f"{len(questions)} questions and {given} answers are given; each question needs its own"
        )


def round_robin(count: int, comparisons: Mapping[tuple[int, int], Comparison]) -> Ranking:
    """A ranking of n answers from comparisons of all their pairs.

    Args:
        count: n, 2 or more.
        comparisons: Per pair of indices, the first of them first.

    Returns:
        Dropped if an answer is in no pair that has a verdict, or if some pairs may be judged later.
    """
    if count < 2:
        return Ranking(None, f"there are {count} answers; a ranking needs 2 or more")
    missing = [item for item in comparisons.values() if item.probability is None]
    if stopped := [item for item in missing if item.stopped]:
        return Ranking(None, stopped[0].reason, stopped=True)
    total, read = [0.0] * count, [0] * count
    for (first, second), comparison in comparisons.items():
        value = comparison.probability
        total[first] += 0.5 if value is None else value
        total[second] += 0.5 if value is None else 1 - value
        read[first] += value is not None
        read[second] += value is not None
    if not all(read):
        return Ranking(
            None, f"{len(missing)} of {len(comparisons)} pairs have no verdict: {missing[0].reason}"
        )
    return Ranking(tuple(value / (count - 1) for value in total))


class Reward(Protocol):
    """Scores answers to prompts; higher is better."""

    def __call__(
        self, prompts: Sequence[Instruction], answers: Sequence[str], *, progress: str | None = None
    ) -> list[float]:
        """One score per answer."""
        ...


def rank_by_reward(
    reward: Reward,
    questions: Sequence[Instruction],
    answers: Sequence[Sequence[str]],
    *,
    progress: str | None = None,
) -> list[Ranking]:
    """Ranks several answers to each question by a reward of single answers.

    Args:
        reward: Scores them.
        questions: What was asked, texts or conversations.
        answers: K per question; K may differ.
        progress: Name of the progress bar; None shows none.
    """
    check_columns(questions, answers)
    prompts = [question for question, texts in zip(questions, answers, strict=True) for _ in texts]
    rewards = reward(prompts, [text for texts in answers for text in texts], progress=progress)
    ends = accumulate((len(texts) for texts in answers), initial=0)
    return [_by_reward(rewards[start:end]) for start, end in pairwise(ends)]


def _by_reward(rewards: Sequence[float]) -> Ranking:
    if not all(map(math.isfinite, rewards)):
        return Ranking(None, f"the rewards are {list(rewards)}, not finite numbers")
    return Ranking(tuple(rewards))
