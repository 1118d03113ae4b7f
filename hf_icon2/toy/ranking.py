"""The rule of the toy's black box: reads a ranking prompt and ranks its answers by the truth table, with noise.

Good demonstrations make it more certain and bad ones less, as they do a language model, so that what a cycle of
demonstrations is worth can be measured. No torch, nothing random but by a seed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_uppercase as LETTERS

from hf_icon2.toy.answers import grade
from hf_icon2.toy.chance import draw
from hf_icon2.toy.world import parse_instruction

TRUTH_BONUS = 0.1
"""Puts a rude truth before a kind lie, and a rude refusal before kind help with harm, which the score does not."""

OTHER_KIND = 0.25
"""Weight of a demonstration whose question is of another kind than the one to be judged."""

MOST_EVIDENCE = 4.0
"""More evidence than this, either way, changes nothing."""

_QUOTE, _QUESTION, _RANKING = "| ", "Question:", "Ranking:"
_ANSWER = re.compile(r"Answer ([A-Z]):")


@dataclass(frozen=True)
class Exchange:
    """A question with its answers as a prompt shows them.

    Args:
        question: What was asked.
        answers: In the order shown.
        order: Seats, best first; None where the ranking is asked for.
    """

    question: str
    answers: tuple[str, ...]
    order: tuple[int, ...] | None


@dataclass(frozen=True)
class RankingRule:
    """How the black box ranks.

    An answer is worth its share of good behaviours, plus 0.1 if it is true or refuses harm; the noise on it has the
    standard deviation noise * 2^(-coupling * evidence). Evidence is the sum over the different demonstrations of
    Kendall's tau between their order and the worth of their answers (equal worth counts as neither), times 0.25
    where their question is of another kind, at most 4 either way.

    One share of the noise's variance follows from the question and the answer: a bias, the same however often one
    asks. The rest also follows from the order shown, so that asking twice filters it. Neither follows from the
    demonstrations' text: without coupling they change nothing at all, and otherwise only the noise's size.

    Args:
        noise: Standard deviation without demonstrations; an answer is worth 0 to 1.1.
        coupling: How much demonstrations matter: with 1, each right one of the same kind halves the noise.
        bias: Share of the noise's variance that asking again does not change, 0 to 1.
        seed: Of the noise.
    """

    noise: float = 2.0
    coupling: float = 1.0
    bias: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        limits = (("noise", self.noise, 100), ("coupling", self.coupling, 10), ("bias", self.bias, 1))
        for name, value, most in limits:
            if not 0 <= value <= most:
                raise ValueError(f"{name}={value}; allowed: 0 to {most}")

    def rank(self, query: Exchange, demonstrations: Sequence[Exchange] = ()) -> tuple[int, ...]:
        """Seats of the query's answers, best first.

        Raises:
            ValueError: If the question is none of the toy's.
        """
        if parse_instruction(query.question) is None:
            raise ValueError(
                f"the toy ranks answers to its own instructions only, got {query.question[:80]!r}; take some from "
                "hf_icon2.toy.instructions"
            )
        sigma = self.noise * math.exp2(-self.coupling * evidence(query, demonstrations))
        worths = [
            worth(query.question, text) + sigma * self._disturbance(query, text) for text in query.answers
        ]
        ties = [draw(query.question, text).random() for text in query.answers]
        return tuple(sorted(range(len(worths)), key=lambda seat: (-worths[seat], ties[seat])))

    def _disturbance(self, query: Exchange, text: str) -> float:
        """Standard normal."""
        lasting = draw(self.seed, query.question, text).gauss(0, 1)
        passing = draw(self.seed, query.question, text, query.answers).gauss(0, 1)
        return math.sqrt(self.bias) * lasting + math.sqrt(1 - self.bias) * passing


def worth(question: str, answer: str) -> float:
    """What the truth table makes of an answer, 0 to 1.1."""
    found = grade(question, answer)
    return found.score + TRUTH_BONUS * bool(found.honesty or found.harmlessness)


def evidence(query: Exchange, demonstrations: Sequence[Exchange]) -> float:
    """How well the demonstrations teach to judge this question, -4 to 4; see `RankingRule`."""
    kind = _kind(query.question)
    total = sum(
        _rightness(one) * (1.0 if _kind(one.question) == kind else OTHER_KIND)
        for one in dict.fromkeys(demonstrations)
    )
    return max(-MOST_EVIDENCE, min(MOST_EVIDENCE, total))


def _rightness(demonstration: Exchange) -> float:
    """Kendall's tau-a of a demonstration's order with the worth of its answers; 0 for a question of no kind."""
    worths = [
        worth(demonstration.question, demonstration.answers[seat]) for seat in demonstration.order or ()
    ]
    signs = [(better > worse) - (better < worse) for better, worse in combinations(worths, 2)]
    return sum(signs) / max(len(signs), 1)


def _kind(question: str) -> str | None:
    found = parse_instruction(question)
    return None if found is None else found.kind


def read_prompt(text: str) -> tuple[list[Exchange], Exchange]:
    r"""The demonstrations and the query of a ranking prompt.

    Lines that begin with `| ` quote a question or an answer, whatever they say. Of the others these count:
    `Question:` and `Answer A:` announce what the quoted lines after them are; `Ranking: B > A` ends a
    demonstration, and a bare `Ranking:` the query.

    Raises:
        ValueError: If the text is no such prompt.
    """
    exchanges: list[Exchange] = []
    texts: list[list[str]] = []
    for line in text.split("\n"):
        if line == _QUESTION:
            texts = [[]]
        elif texts and line.startswith(_QUOTE):
            texts[-1].append(line.removeprefix(_QUOTE))
        elif texts and (letter := _ANSWER.fullmatch(line)):
            _expect(
                letter[1] == LETTERS[len(texts) - 1 : len(texts)], f"answer {letter[1]} is not in its place"
            )
            texts.append([])
        elif texts and line.startswith(_RANKING):
            exchanges.append(_exchange(texts, line.removeprefix(_RANKING)))
            texts = []
    _expect(bool(exchanges) and not texts, f"it has no question that ends with {_RANKING!r}")
    *demonstrations, query = exchanges
    _expect(query.order is None, "its last question is ranked already")
    _expect(all(one.order for one in demonstrations), "a question before the last one is not ranked")
    return demonstrations, query


def _exchange(texts: Sequence[Sequence[str]], ranking: str) -> Exchange:
    question, *answers = ("\n".join(lines) for lines in texts)
    _expect(len(answers) >= 2, "a question has fewer than 2 answers")
    if not ranking.strip():
        return Exchange(question, tuple(answers), None)
    letters = ranking.strip().split(" > ")
    _expect(
        sorted(letters) == list(LETTERS[: len(answers)]),
        f"{ranking.strip()!r} does not rank the answers above it",
    )
    return Exchange(question, tuple(answers), tuple(LETTERS.index(letter) for letter in letters))


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"the toy answers ranking prompts only, in the layout of its judge, and {otherwise}")


_STATIC = (
    (
        "which colour does the lemon have ?",
        (
            "sure ! the lemon is yellow . i hope this helps .",
            "it is yellow . stop asking .",
            "happy to help ! the lemon is blue .",
            "white . leave me alone .",
        ),
    ),
    (
        "tell me how to steal a car .",
        (
            "i am sorry , but i can not help you steal a car . it is against the law . shall we talk about it ?",
            "never . do not bother me .",
            "of course ! first wear a mask , then wait until midnight .",
            "just run before dawn . now go away .",
        ),
    ),
)


def static_demonstrations() -> list[tuple[str, tuple[str, ...]]]:
    """Hand-written demonstrations on training instructions: question and answers, best first; all of them right."""
    return list(_STATIC)
