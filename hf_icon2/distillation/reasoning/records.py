"""A question, a teacher's chain of thought, and the teacher's evaluation of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hf_icon2.judges.verdicts import Verdict

Task = Literal["text", "svamp", "gsm8k", "cqa", "anli"]
"""Form of the answer: free text, an equation, a number, one of several choices, a class of inference."""

TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Question:
    """What a teacher is asked.

    Args:
        id: Tells it apart from the others; chains and evaluations are joined by it.
        text: As the student will read it.
        answer: The right one, where it is known; never shown to the teacher.
        task: Form of the answer.
        choices: Answers to choose from, for the task "cqa"; they stand in the text as well.
    """

    id: str
    text: str
    answer: str | None = None
    task: Task = "text"
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(
                f"a question needs an id and a text that is not blank, got {self.id!r} and {self.text!r}"
            )
        if self.task not in TASKS:
            raise ValueError(f"the task {self.task!r} is unknown; allowed: {', '.join(TASKS)}")


@dataclass(frozen=True)
class Chain:
    """A chain of thought.

    Args:
        rationale: The thoughts, whole sentences; not blank.
        label: The answer they lead to, in the form of the task; not blank.
    """

    rationale: str
    label: str


@dataclass(frozen=True)
class Evaluation:
    """A judgement of a chain of thought and its answer.

    Args:
        text: Why; not blank.
        verdict: Whether the answer is right.
    """

    text: str
    verdict: Verdict
