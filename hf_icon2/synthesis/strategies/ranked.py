"""The best and the worst of several samples, by a reward (sampling-ranking) or the model itself (self-rewarding)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.judges.ranking import Ranker
from hf_icon2.judges.verdicts import Ranking
from hf_icon2.judges.wording import question_text
from hf_icon2.prompts import Instruction
from hf_icon2.steering.decoding import Completion
from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Writer, count_tokens
from hf_icon2.synthesis.tuning import Reward

logger = logging.getLogger(__name__)

Scores = Sequence[float | None]
"""Of one row's samples, higher is better; None takes no part."""
Scorer = Callable[[Sequence[Instruction], Sequence[Sequence[str]]], Sequence[Scores]]
"""Prompts, and the samples of each -> their scores."""


@dataclass(frozen=True)
class Ranked:
    """Chosen is the best of some samples, rejected the worst; of equal ones the first.

    A row whose scores are all equal, or that got none, is undecided.

    Args:
        samples: Answers per row, 2 or more.
        score: What ranks them; see `reward_scorer` and `rank_scorer`.
        questions: Questions asked about the texts of one row, where that is known.
    """

    samples: int
    score: Scorer
    questions: Callable[[Sequence[str]], int] | None = None

    @property
    def texts_per_row(self) -> int:
        """The samples."""
        return self.samples

    def draft(self, writer: Writer, rows: Sequence[PairRow]) -> list[Draft]:
        """One draft per row."""
        answers = writer.samples(rows, self.samples)
        texts = [[writer.text(answer) for answer in own] for own in answers]
        scores = self.score([row.prompt for row in rows], texts)
        return [self._draft(*row) for row in zip(answers, texts, scores, strict=True)]

    def _draft(self, answers: list[Completion], texts: list[str], scores: Scores) -> Draft:
        best, worst = best_and_worst(scores)
        columns = {
            "reward_chosen": scores[best],
            "reward_rejected": scores[worst],
            "questions_asked": None if self.questions is None else self.questions(texts),
        }
        undecided = scores[best] == scores[worst]
        return Draft(answers[best], answers[worst], count_tokens(answers), undecided, columns)


def best_and_worst(scores: Scores) -> tuple[int, int]:
    """Places of the first highest and the first lowest score; (0, 0) if there is none."""
    found = {place: score for place, score in enumerate(scores) if score is not None}
    if not found:
        return 0, 0
    return max(found, key=found.__getitem__), min(found, key=found.__getitem__)


def scorer_of(source: Reward | Ranker, name: str, progress: str | None = None) -> Scorer:
    """The scorer of a reward, or of anything that ranks.

    Args:
        source: A function of (prompts, answers), or an object with `rank`, such as a judge.
        name: The argument it was passed as, for the message.
        progress: Name of the progress bar of a judge; None shows none.

    Raises:
        TypeError: If it is neither.
    """
    if callable(source):
        return reward_scorer(source)
    if not callable(getattr(source, "rank", None)):
        raise TypeError(
            f"{name} is a {type(source).__name__}; pass a function of (prompts, answers) that returns one number per "
            "answer, or an object with a method `rank`, such as a judge"
        )
    return rank_scorer(source, progress)


def reward_scorer(reward: Reward) -> Scorer:
    """Scores every sample by a reward.

    Raises:
        ValueError: When it scores, if there is not one finite number per answer.
    """

    def score(prompts: Sequence[Instruction], texts: Sequence[Sequence[str]]) -> list[Scores]:
        asked = [prompt for prompt, own in zip(prompts, texts, strict=True) for _ in own]
        answers = [text for own in texts for text in own]
        values = [float(value) for value in reward(asked, answers)]
        if len(values) != len(answers):
            raise ValueError(
                f"the reward gave {len(values)} numbers for {len(answers)} answers; it must give one per answer"
            )
        for prompt, answer, value in zip(asked, answers, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"the reward of the answer {answer[:80]!r} to {question_text(prompt)[:80]!r} is {value}; rewards "
                    "must be finite numbers"
                )
        given = iter(values)
        return [[next(given) for _ in own] for own in texts]

    return score


def rank_scorer(ranker: Ranker, progress: str | None = None) -> Scorer:
    """Scores samples by a ranking; equal texts are shown once, and empty ones not at all."""

    def score(prompts: Sequence[Instruction], texts: Sequence[Sequence[str]]) -> list[Scores]:
        shown = [shown_texts(own) for own in texts]
        asked = [row for row, own in enumerate(shown) if len(own) > 1]
        rankings = (
            ranker.rank(
                [question_text(prompts[row]) for row in asked],
                [shown[row] for row in asked],
                progress=progress,
            )
            if asked
            else []
        )
        if len(rankings) != len(asked):
            raise ValueError(
                f"the judge ranked {len(rankings)} of {len(asked)} questions; it must give one ranking per question"
            )
        _log_missing(rankings)
        values: list[dict[str, float]] = [{} for _ in texts]
        for row, ranking in zip(asked, rankings, strict=True):
            if ranking.scores is not None:
                values[row] = dict(zip(shown[row], ranking.scores, strict=True))
        return [[own.get(text) for text in row] for own, row in zip(values, texts, strict=True)]

    return score


def shown_texts(texts: Sequence[str]) -> list[str]:
    """The different texts that are not empty, in order."""
    return [text for text in dict.fromkeys(texts) if text.strip()]


def letter_questions(texts: Sequence[str]) -> int:
    """Questions that a `PairwiseJudge` is asked about some samples: all pairs of different ones, in both orders."""
    return 2 * len(list(combinations(shown_texts(texts), 2)))


def questions_of(judge: object) -> Callable[[Sequence[str]], int] | None:
    """How many questions a judge is asked per row, where that is known."""
    return letter_questions if isinstance(judge, PairwiseJudge) else None


def _log_missing(rankings: Sequence[Ranking]) -> None:
    """Why rows have no ranking: reasons alike up to a colon are one, and the first is shown."""
    alike: dict[str, list[str]] = {}
    for ranking in rankings:
        if ranking.scores is None:
            reason = ranking.reason or "no reason given"
            alike.setdefault(reason.partition(":")[0], []).append(reason)
    for reasons in alike.values():
        logger.warning("%d of %d instructions are undecided: %s", len(reasons), len(rankings), reasons[0])
