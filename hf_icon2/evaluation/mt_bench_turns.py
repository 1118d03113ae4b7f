"""The turns of MT-Bench, each with what was replied before it, and how they are shown to a judge of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hf_icon2.evaluation.dialogues import Question, Replies
from hf_icon2.judges.wording import question_text
from hf_icon2.prompts import Instruction

Name = int | str
Answers = Mapping[Name, Replies]


class Turn(NamedTuple):
    """One turn of one question.

    Args:
        place: Of the question.
        turn: Number of the turn, from 0.
        question: The question.
        replies: To all its turns.
    """

    place: int
    turn: int
    question: Question
    replies: tuple[str, ...]

    @property
    def reply(self) -> str:
        """The reply to this turn."""
        return self.replies[self.turn]


def turns_of(questions: Sequence[Question], answers: Answers) -> list[Turn]:
    """All turns of all questions.

    Raises:
        ValueError: If there are no questions, or one has fewer replies than turns.
    """
    if not questions:
        raise ValueError("there are no questions; give those that were answered")
    rows = []
    for place, question in enumerate(questions):
        replies = answers[question.name].texts if question.name in answers else ()
        if len(replies) < len(question.turns):
            raise ValueError(
                f"question {question.name} has {len(question.turns)} turns and {len(replies)} replies; answer all "
                "turns, or leave the question out"
            )
        rows += [Turn(place, turn, question, replies) for turn in range(len(question.turns))]
    return rows


def turns_present(rows: Sequence[Turn]) -> list[int]:
    """Numbers of the turns, from 0."""
    return sorted({row.turn for row in rows})


def categories_present(rows: Sequence[Turn]) -> list[str]:
    """Categories of the questions, in their order."""
    return list(dict.fromkeys(row.question.category for row in rows if row.question.category is not None))


def asked(row: Turn) -> Instruction:
    """The question of a turn to a judge that reads two conversations."""
    if row.turn == 0:
        return row.question.turns[0]
    said = [question_text(turn) for turn in row.question.turns[: row.turn + 1]]
    return "\n\n".join(
        [
            f"A user writes {len(said)} messages, and gets a reply to each. Judge the reply to the last one, in the "
            "light of what came before.",
            *(f"Message {number}:\n{text}" for number, text in enumerate(said, 1)),
        ]
    )


def transcript(row: Turn) -> str:
    """The replies up to a turn."""
    if row.turn == 0:
        return row.reply
    return "\n\n".join(
        f"Reply {number}:\n{text}" for number, text in enumerate(row.replies[: row.turn + 1], 1)
    )
