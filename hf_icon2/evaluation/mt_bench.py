"""MT-Bench (Zheng et al. 2023): two turns per question, graded from 1 to 10, or compared between two models.

Questions, answers and references are read from FastChat's files. Means weigh every graded turn alike, as FastChat's
do; the unit of all intervals is the question with both its turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_icon2.evaluation.dialogues import Question, Replies, conversation
from hf_icon2.evaluation.doubts import side_of
from hf_icon2.evaluation.mt_bench_reports import Duel, Grades
from hf_icon2.evaluation.mt_bench_turns import (
    Answers,
    Name,
    Turn,
    asked,
    categories_present,
    transcript,
    turns_of,
    turns_present,
)
from hf_icon2.evaluation.resampling import resampled_mean
from hf_icon2.evaluation.win_rate import WinRate, win_rate
from hf_icon2.judges.answer_files import read_rows
from hf_icon2.judges.intervals import Estimate
from hf_icon2.judges.judging import Judge
from hf_icon2.judges.rating import Rater
from hf_icon2.judges.reward_judge import ScoringJudge
from hf_icon2.judges.seats import counted_reasons
from hf_icon2.judges.verdicts import Comparison
from hf_icon2.storage import shortened

TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which FastChat lets models answer, by category."""

MAX_NEW_TOKENS = 1024
"""FastChat's longest reply."""

WRONG_REFERENCES: Mapping[int, tuple[int, ...]] = {
    101: (2,),  # nobody can overtake the last one
    104: (1, 2),  # David has no brother, then one
    105: (1,),  # the secretary is Alice, beside David in the last space
    107: (2,),  # three generations, not four
    109: (2,),  # he faces south, where a shadow to the west is on his right
    111: (1, 2),  # the area is 3, that of the circle 5 pi
    113: (2,),  # who likes green does not dislike both colours: 0
    114: (1, 2),  # 35/36, then 1
    120: (2,),  # f(2) = 0, so x = 2
}
"""Turns of FastChat's reference answers (by GPT-4) to reasoning and mathematics that are wrong, worked out by hand.

FastChat's pull request 3158 finds 13 of all 30 questions; those on code are not in this list.
"""


def read_replies(path: Path) -> dict[Name, Replies]:
    """Reads a file of FastChat's `model_answer` or `reference_answer` folder: the first choice of each question.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON, a row has no turns, or a question stands twice.
    """
    found: dict[Name, Replies] = {}
    for number, row in enumerate(read_rows(path), 1):
        try:
            name, turns = row["question_id"], tuple(row["choices"][0]["turns"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"row {number} of {path} is {shortened(row)}; it needs question_id and choices with turns"
            ) from error
        if not turns or not all(isinstance(turn, str) for turn in turns):
            raise ValueError(f"row {number} of {path} has the turns {shortened(turns)}; allowed: texts")
        if name in found:
            raise ValueError(f"question {name} stands twice in {path}; keep one answer to each")
        found[name] = Replies(turns, finish_reasons=tuple(row.get("finish_reasons") or ()))
    if not found:
        raise ValueError(f"{path} holds no answers; give rows of question_id and choices")
    return found


def without_wrong(references: Answers) -> dict[Name, Replies]:
    """References without the questions of `WRONG_REFERENCES`: a judge does better with none than with a wrong one."""
    return {name: replies for name, replies in references.items() if name not in WRONG_REFERENCES}


def grade(
    questions: Sequence[Question],
    answers: Answers,
    rater: Rater,
    *,
    references: Answers | None = None,
    progress: str | None = None,
    seed: int = 0,
) -> Grades:
    """Grades every turn of a model's answers by itself, a later one with all that was said before it.

    Args:
        questions: Of `read_questions`.
        answers: Of each question, by its name: of `read_replies` or `answer_turns`.
        rater: Gives the grades.
        references: Reference answers of some questions, shown to the rater.
        progress: Name of the progress bar; None shows none.
        seed: Of the intervals.

    Raises:
        ValueError: If there are no questions, or one has fewer replies than turns.
    """
    rows = turns_of(questions, answers)
    ratings = rater(
        [conversation(row.question, row.replies[: row.turn]) for row in rows],
        [row.reply for row in rows],
        references=[_references(row, references) for row in rows],
        progress=progress,
    )
    graded = [(row, item.score) for row, item in zip(rows, ratings, strict=True) if item.score is not None]

    def mean(keep: Sequence[tuple[Turn, float]]) -> Estimate:
        scores = [score for _, score in keep]
        least, most = rater.scale or (min(scores, default=0.0), max(scores, default=0.0))
        return resampled_mean(scores, [row.place for row, _ in keep], least=least, most=most, seed=seed)[0]

    return Grades(
        mean=mean(graded),
        turns=[mean([item for item in graded if item[0].turn == turn]) for turn in turns_present(rows)],
        categories={
            name: mean([item for item in graded if item[0].question.category == name])
            for name in categories_present(rows)
        },
        graded=len(graded),
        failed=len(rows) - len(graded),
        cut=_cut(questions, answers),
        side=side_of([row.reply for row in rows], [row.place for row in rows]),
        reasons=counted_reasons(item.reason for item in ratings if item.score is None),
    )


def compare(
    questions: Sequence[Question],
    firsts: Answers,
    seconds: Answers,
    judge: Judge,
    *,
    progress: str | None = None,
    seed: int = 0,
) -> Duel:
    """Compares two models turn by turn, each with its own earlier replies.

    Judges that score one answer read each model's conversation; others are shown both, and asked about the last turn.

    Args:
        questions: Of `read_questions`.
        firsts: Replies of the first model to each question, by its name.
        seconds: Those of the second.
        judge: Compares them in both orders.
        progress: Name of the progress bar; None shows none.
        seed: Of the intervals.

    Raises:
        ValueError: If there are no questions, or one has fewer replies than turns.
    """
    ones, others = turns_of(questions, firsts), turns_of(questions, seconds)
    if isinstance(judge, ScoringJudge):
        found = _scored(judge, ones, others, progress)
    else:
        found = judge.compare(
            [asked(row) for row in ones],
            [transcript(row) for row in ones],
            [transcript(row) for row in others],
            progress=progress,
        )
    rows = list(zip(ones, others, found, strict=True))

    def rate(keep: Sequence[tuple[Turn, Turn, Comparison]]) -> WinRate:
        return win_rate(
            [item for _, _, item in keep],
            [one.reply for one, _, _ in keep],
            [other.reply for _, other, _ in keep],
            prompts=[one.place for one, _, _ in keep],
            seed=seed,
        )

    return Duel(
        overall=rate(rows),
        turns=[rate([row for row in rows if row[0].turn == turn]) for turn in turns_present(ones)],
        categories={
            name: rate([row for row in rows if row[0].question.category == name]).win_rate
            for name in categories_present(ones)
        },
    )


def _references(row: Turn, references: Answers | None) -> Sequence[str] | None:
    """Reference answers up to the turn."""
    if not references or row.question.name not in references:
        return None
    return references[row.question.name].texts[: row.turn + 1]


def _cut(questions: Sequence[Question], answers: Answers) -> int | None:
    """Replies that ended at the token limit; None where that is not known of all."""
    known = [answers[question.name] for question in questions]
    if any(len(replies.finish_reasons) != len(replies.texts) for replies in known):
        return None
    return sum(reason == "length" for replies in known for reason in replies.finish_reasons)


def _scored(
    judge: ScoringJudge, ones: Sequence[Turn], others: Sequence[Turn], progress: str | None
) -> list[Comparison]:
    rows = [*ones, *others]
    rewards = judge(
        [conversation(row.question, row.replies[: row.turn]) for row in rows],
        [row.reply for row in rows],
        progress=progress,
    )
    return [judge.comparison(*pair) for pair in zip(rewards[: len(ones)], rewards[len(ones) :], strict=True)]
