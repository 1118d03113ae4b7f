"""What judges say: which of two answers is better, and in which order several are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Verdict = Literal["correct", "wrong", "uncertain"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""What may be said of an answer and its reasoning."""

LEAST_MASS = 0.1
"""Probability of the two letters below which a judge is taken not to answer with them."""


class LetterChoice(NamedTuple):
    """What a judge thinks of one question that asks for one of two letters.

    Args:
        probability: Of the first letter, the two renormalised; 0 to 1.
        mass: Probability that the reply begins with either letter; near 0 the judge did not understand.
    """

    probability: float
    mass: float


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question, judged in both orders.

    Args:
        forward: Probability that the first answer is the better one, shown in this order; None if unreadable.
        backward: The same probability, shown in the other order.
        reason: Why a probability is missing.
        stopped: Whether it may be judged later: the batch ended before, or its budget did.
    """

    forward: float | None
    backward: float | None
    reason: str | None = None
    stopped: bool = False

    @property
    def probability(self) -> float | None:
        """Mean over both orders, which cancels a constant preference for a seat; None if one is missing."""
        if self.forward is None or self.backward is None:
            return None
        return (self.forward + self.backward) / 2

    @property
    def winner(self) -> Literal["first", "second"] | None:
        """The answer that wins in both orders; None abstains."""
        if self.forward is None or self.backward is None:
            return None
        if min(self.forward, self.backward) > 0.5:
            return "first"
        return "second" if max(self.forward, self.backward) < 0.5 else None


@dataclass(frozen=True)
class Ranking:
    """Several answers to one question, in order.

    Args:
        scores: Higher is better, one per answer in the order given; equal ones are not told apart. None if dropped.
        reason: Why there are none.
        stopped: Whether it may be ranked later: the batch ended before, or its budget did.
    """

    scores: tuple[float, ...] | None
    reason: str | None = None
    stopped: bool = False

    @property
    def order(self) -> tuple[int, ...] | None:
        """Indices of the answers, best first; of equal ones the first given comes first."""
        if self.scores is None:
            return None
        return tuple(sorted(range(len(self.scores)), key=self.scores.__getitem__, reverse=True))


@dataclass(frozen=True)
class Demonstration:
    """An example of a ranking, shown to a judge in its prompt.

    Args:
        question: What was asked.
        answers: Best first; 2 or more.
    """

    question: str
    answers: tuple[str, ...]
