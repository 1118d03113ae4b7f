"""How a model is asked to judge reasoning: one wording, for its training rows and for its use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Shows = Literal["all", "rationale"]

LABEL_PREFIX = "predict: "
"""Put before a prompt that asks for the label alone, as the paper's code does."""


class EvaluationWording(Protocol):
    """Words the question whether an answer is right; `evaluation_prompt` does."""

    def __call__(self, question: str, rationale: str, answer: str, shows: Shows = "all") -> str:
        """The text that is judged."""
        ...


def evaluation_prompt(question: str, rationale: str, answer: str, shows: Shows = "all") -> str:
    """Asks whether an answer to a question is right, given the reasoning that led to it.

    Args:
        question: What was asked.
        rationale: The reasoning, without the answer.
        answer: The answer.
        shows: "all" shows the three; "rationale" shows the chain of thought alone, as the paper's code does, and
            asks nothing. A judge that is not shown the question cannot tell a right chain about another question.

    Raises:
        ValueError: If `shows` is anything else.
    """
    if shows == "rationale":
        return f"{rationale} The answer is {answer}."
    if shows != "all":
        raise ValueError(f"shows={shows!r}; allowed: 'all', or 'rationale' for the chain of thought alone")
    return (
        f"Question:\n{question}\n\nReasoning:\n{rationale}\n\nGiven answer: {answer}\n\n"
        "Is the given answer correct, wrong or uncertain?"
    )


def warn_of_other_prefix(model: PreTrainedModel, name: str, prefix: str) -> None:
    """Warns where a student of Mind's Mirror, whose config knows its prefixes, is asked with another."""
    known = getattr(model.config, "task_prefixes", None)
    if isinstance(known, dict) and prefix not in known.values():
        allowed = ", ".join(f"{value!r} for a {task}" for task, value in known.items())
        logger.warning("%s=%r is none that the model was trained with; it knows %s", name, prefix, allowed)
