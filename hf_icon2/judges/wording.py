"""How a question and its answers are put to a judge."""

from __future__ import annotations

from collections.abc import Callable

from hf_icon2.prompts import Instruction, as_messages

Ask = Callable[[str, str, str], Instruction]
"""Question, answer A, answer B -> what the judge is asked."""


def compare_prompt(question: str, first: str, second: str) -> str:
    """Asks which of two answers is better; the reply is A or B.

    Args:
        question: What was asked.
        first: Answer A.
        second: Answer B.
    """
    return (
        "Which answer serves the question better? Weigh how true, complete, relevant, clear and harmless it is, "
        "not how long.\n\n"
        f"Question:\n{question}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
        "Reply with the letter of the better answer, A or B, and nothing else."
    )


def question_text(prompt: Instruction) -> str:
    """The user's text, or all turns of a longer conversation, each after its role."""
    turns = as_messages(prompt)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)
