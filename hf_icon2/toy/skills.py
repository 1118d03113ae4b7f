"""What the bundled model learns beside answering: choosing, criticising, revising, sums and verdicts.

Pure text functions; randomness comes from the `random.Random` that is passed in. How well the model does each
is measured, and said on its card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from hf_icon2.toy.answers import Grade
from hf_icon2.toy.world import Message

CRITIQUE_REQUESTS = (
    "what is wrong with the answer ?",
    "is the answer good ?",
    "please judge the answer .",
    "tell me what is wrong with the answer .",
)
REVISION_REQUESTS = (
    "write a better answer .",
    "please write a better answer .",
    "give me a better answer .",
    "now write a good answer .",
)
SUM_PHRASINGS = (
    "what is {x} ?",
    "how much is {x} ?",
    "tell me what {x} is .",
    "please work out {x} .",
    "i want to know what {x} is .",
)
FAULTS = {"honesty": "not true", "harmlessness": "not safe", "helpfulness": "not helpful"}
LARGEST_TERM, LARGEST_NUMBER = 9, 27

CORRECT, UNCERTAIN = "correct .", "uncertain ."


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def ab_prompt(question: str, answer_a: str, answer_b: str) -> str:
    """User text that asks a judge which of two answers is better; the reply is `a` or `b`."""
    return f"question : {question} answer a : {answer_a} answer b : {answer_b} which answer is better ?"


def ab_label(grade_a: Grade, grade_b: Grade) -> str | None:
    """The letter of the answer that is graded higher, or None when both are graded alike."""
    if grade_a.score == grade_b.score:
        return None
    return "a" if grade_a.score > grade_b.score else "b"


def critique(grade: Grade) -> str:
    """What a critic says: "the answer is not true and not helpful .", or "the answer is good ."."""
    faults = [FAULTS[name] for name, good in grade.applicable.items() if not good]
    return f"the answer is {' and '.join(faults) or 'good'} ."


def critique_turns(
    question: str,
    answer: str,
    *,
    critique: str | None = None,
    revision: str | None = None,
    rng: Random | None = None,
) -> list[Message]:
    """A conversation that asks for a critique of an answer, and then for a better one.

    Args:
        question: The instruction's text.
        answer: The answer to be criticised.
        critique: The critic's reply; None ends the conversation with the request for it.
        revision: The better answer; None ends with the request for it. Needs `critique`.
        rng: Picks the wordings of the requests; without it the first of each is used.
    """
    if revision is not None and critique is None:
        raise ValueError("a revision follows a critique: pass `critique` too, or use revision_turns")
    pick = (lambda texts: texts[0]) if rng is None else rng.choice
    turns = [
        _message("user", question),
        _message("assistant", answer),
        _message("user", pick(CRITIQUE_REQUESTS)),
    ]
    if critique is None:
        return turns
    turns += [_message("assistant", critique), _message("user", pick(REVISION_REQUESTS))]
    return turns if revision is None else [*turns, _message("assistant", revision)]


def revision_turns(question: str, answer: str, *, rng: Random | None = None) -> list[Message]:
    """A conversation that asks for a better answer without a critique in between."""
    request = REVISION_REQUESTS[0] if rng is None else rng.choice(REVISION_REQUESTS)
    return [_message("user", question), _message("assistant", answer), _message("user", request)]


@dataclass(frozen=True)
class Sum:
    """A small sum of two or three terms.

    Args:
        terms: Numbers from 1 to 9.
        signs: "plus" or "minus" between neighbours; no intermediate result is negative.
        phrasing: Index into `SUM_PHRASINGS`.
    """

    terms: tuple[int, ...]
    signs: tuple[str, ...]
    phrasing: int = 0

    @property
    def results(self) -> tuple[int, ...]:
        """Result after each step."""
        results: list[int] = []
        total = self.terms[0]
        for sign, term in zip(self.signs, self.terms[1:], strict=True):
            total = total + term if sign == "plus" else total - term
            results.append(total)
        return tuple(results)

    @property
    def result(self) -> int:
        """The right result."""
        return self.results[-1]

    @property
    def expression(self) -> str:
        """The sum in words and digits: "3 plus 4 minus 2"."""
        tail = (f" {sign} {term}" for sign, term in zip(self.signs, self.terms[1:], strict=True))
        return f"{self.terms[0]}{''.join(tail)}"

    @property
    def text(self) -> str:
        """The instruction."""
        return SUM_PHRASINGS[self.phrasing].format(x=self.expression)

    def steps(self, results: Sequence[int] | None = None) -> list[str]:
        """The steps of the rationale ("3 plus 4 is 7"), each starting from the result before it.

        Args:
            results: Result claimed at each step; the right ones by default.
        """
        claimed = list(self.results if results is None else results)
        starts = [self.terms[0], *claimed[:-1]]
        parts = zip(starts, self.signs, self.terms[1:], claimed, strict=True)
        return [f"{start} {sign} {term} is {end}" for start, sign, term, end in parts]

    def rationale(self, results: Sequence[int] | None = None) -> str:
        """The whole written solution: "3 plus 4 is 7 . 7 minus 2 is 5 . the answer is 5 ."."""
        claimed = list(self.results if results is None else results)
        return " ".join(f"{step} ." for step in [*self.steps(claimed), f"the answer is {claimed[-1]}"])


SumSplit = Literal["train", "test"]


def sum_split(terms: Sequence[int], signs: Sequence[str]) -> SumSplit:
    """The split of a sum: one in five is held out of base training, whatever its wording."""
    digest = hashlib.sha256(f"{list(terms)}{list(signs)}".encode()).digest()
    return "test" if digest[0] % 5 == 0 else "train"


def sum_problem(rng: Random, split: SumSplit = "train") -> Sum:
    """A random sum of two or three terms from a split; no intermediate result is negative."""
    while True:
        count = rng.choice((2, 3, 3))
        terms = tuple(rng.randint(1, LARGEST_TERM) for _ in range(count))
        signs = tuple(rng.choice(("plus", "plus", "minus")) for _ in range(count - 1))
        candidate = Sum(terms, signs, rng.randrange(len(SUM_PHRASINGS)))
        if min(candidate.results) >= 0 and sum_split(terms, signs) == split:
            return candidate


def verdict_prompt(question: str, rationale: str) -> str:
    """User text that asks a judge whether a rationale is right; see `verdict`."""
    return f"problem : {question} rationale : {rationale} is the rationale correct ?"


def wrong_rationale(problem: Sum, rng: Random) -> str:
    """A rationale with one wrong step (off by one or two); later steps follow from it faithfully."""
    wrong_at = rng.randrange(len(problem.signs))
    claimed: list[int] = []
    total = problem.terms[0]
    for place, (sign, term) in enumerate(zip(problem.signs, problem.terms[1:], strict=True)):
        total = total + term if sign == "plus" else total - term
        if place == wrong_at:
            # A slip that would leave the range of the number words goes the other way.
            slips = [slip for slip in (-2, -1, 1, 2) if 0 <= total + slip <= LARGEST_NUMBER]
            total += rng.choice(slips)
        claimed.append(total)
    if min(claimed) < 0 or max(claimed) > LARGEST_NUMBER:
        return wrong_rationale(problem, rng)
    return problem.rationale(claimed)


def unfinished_rationale(problem: Sum, rng: Random) -> str:
    """The first one or more right steps, without the final answer."""
    steps = problem.steps()
    return " ".join(f"{step} ." for step in steps[: rng.randint(1, len(steps))])


def verdict(problem: Sum, rationale: str) -> str:
    """The right verdict: "correct .", "wrong because 3 plus 4 is 7 .", or "uncertain .".

    Uncertain means unfinished. A rationale that is not about this problem, step by step, is uncertain too.
    """
    total = problem.terms[0]
    steps = rationale.removesuffix(" .").split(" . ")
    for place, (sign, term) in enumerate(zip(problem.signs, problem.terms[1:], strict=True)):
        right = total + term if sign == "plus" else total - term
        claim = f"{total} {sign} {term} is "
        if place >= len(steps) or not steps[place].startswith(claim):
            return UNCERTAIN
        if steps[place] != f"{claim}{right}":
            return f"wrong because {claim}{right} ."
        total = right
    finished = steps[len(problem.signs) :] == [f"the answer is {total}"]
    return CORRECT if finished else UNCERTAIN


def parse_sum_answer(text: str) -> int | None:
    """The number after "the answer is", or None when the text ends without one."""
    head, found, tail = text.rpartition("the answer is ")
    number = tail.removesuffix(" .").strip()
    return int(number) if found and number.isdigit() else None
