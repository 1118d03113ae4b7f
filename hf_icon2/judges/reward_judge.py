"""Judges that score one answer at a time: what their comparisons share, and one around any reward function."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_icon2.judges.judging import Judge, check_columns, rank_by_reward
from hf_icon2.judges.verdicts import Comparison, Demonstration, Ranking
from hf_icon2.prompts import Instruction, answer_text


class ScoringJudge(Judge):
    """A judge that compares two answers by the reward of each.

    It sees one answer at a time, so both orders are the same and there is no position bias.
    """

    scale: float | None = None
    """Reward that counts as one unit of log-odds (Bradley-Terry); None says only which reward is higher."""

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Instruction], answers: Sequence[str], *, progress: str | None = None
    ) -> list[float]:
        """Rewards, one per answer; higher is better.

        Args:
            prompts: Texts or conversations.
            answers: One to each.
            progress: Name of the progress bar; None shows none.
        """

    def compare(
        self,
        questions: Sequence[Instruction],
        firsts: Sequence[Instruction],
        seconds: Sequence[Instruction],
        *,
        progress: str | None = None,
    ) -> list[Comparison]:
        """Compares two answers to each question by their rewards; see `Judge`. Two equal answers are a tie."""
        check_columns(questions, firsts, seconds)
        answers = [answer_text(answer) for pair in zip(firsts, seconds, strict=True) for answer in pair]
        rewards = self([question for question in questions for _ in range(2)], answers, progress=progress)
        return [
            self.comparison(first, first if texts[0] == texts[1] else second)
            for first, second, *texts in zip(
                rewards[::2], rewards[1::2], answers[::2], answers[1::2], strict=True
            )
        ]

    def rank(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        demonstrations: Sequence[Demonstration] = (),
        *,
        progress: str | None = None,
    ) -> list[Ranking]:
        """Ranks several answers to each question; the scores are the rewards.

        Args:
            questions: What was asked.
            answers: K per question; K may differ.
            demonstrations: Not shown; they are here so that all judges can be called alike.
            progress: Name of the progress bar; None shows none.
        """
        return rank_by_reward(self, questions, answers, progress=progress)

    def comparison(self, first: float, second: float) -> Comparison:
        """What the rewards of two answers say."""
        if not (math.isfinite(first) and math.isfinite(second)):
            return Comparison(None, None, f"the rewards are {first} and {second}, not two finite numbers")
        if self.scale is None:
            probability = 0.5 if first == second else float(first > second)
        else:
            # The logistic function, in the form that does not overflow.
            probability = (1 + math.tanh((first - second) / self.scale / 2)) / 2
        return Comparison(probability, probability)


@dataclass(frozen=True)
class RewardJudge(ScoringJudge):
    """Judges by any function that scores answers, such as a truth table or a rule.

    Args:
        reward: From prompts and answers, lists of one length, to one number per answer; higher is better.
        scale: Reward that counts as one unit of log-odds, for functions that are trained as Bradley-Terry models
            (most: 1). None says only which reward is higher, and abstains where they are equal.

    Raises:
        TypeError: If the reward is no function.
        ValueError: If the scale is not above 0.
    """

    reward: Callable[[Sequence[Instruction], Sequence[str]], Sequence[float]]
    scale: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise TypeError(
                f"reward is a {type(self.reward).__name__}; pass a function of (prompts, answers) that returns one "
                "number per answer"
            )
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale} is no unit; allowed: a number above 0, or None")

    def __call__(
        self, prompts: Sequence[Instruction], answers: Sequence[str], *, progress: str | None = None
    ) -> list[float]:
        """The function's rewards; it is called once, without a progress bar of its own."""
        given = self.reward(prompts, answers)
        try:
            rewards = [float(value) for value in given]
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the reward function gave {str(given)[:80]}; it must give a list of one number per answer, NaN where "
                "it has none"
            ) from error
        if len(rewards) != len(answers):
            raise ValueError(
                f"the reward function gave {len(rewards)} rewards for {len(answers)} answers; it must give one each"
            )
        return rewards
