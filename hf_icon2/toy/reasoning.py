"""Sums worked out in other orders and words, read back and judged: what the toy's teacher and its pupils say.

Pure text functions; randomness comes from the `random.Random` that is passed in.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import permutations, product
from random import Random

from hf_icon2.toy.skills import (
    LARGEST_NUMBER,
    LARGEST_TERM,
    SUM_PHRASINGS,
    Sum,
    SumSplit,
    sum_problem,
    sum_split,
    verdict,
    verdict_prompt,
)

LABEL_PREFIX, RATIONALE_PREFIX = "answer : ", "explain : "
"""What asks a pupil for the label alone and for the rationale, in words that the toy's vocabulary has."""

_EXPRESSION = r"(?P<x>\d+(?: (?:plus|minus) \d+){1,2})"
_PHRASINGS = [re.compile(re.escape(text).replace(r"\{x\}", _EXPRESSION)) for text in SUM_PHRASINGS]
_WRONG = re.compile(r"wrong because (?P<claim>.*) is (?P<right>\d+) \.")
_IS, _MAKES = " is ", " makes "


def parse_sum(text: str) -> Sum | None:
    """The sum that an instruction asks for; None if it is none of the toy's."""
    for phrasing, pattern in enumerate(_PHRASINGS):
        found = pattern.fullmatch(text.strip())
        if found is None:
            continue
        words = found["x"].split()
        problem = Sum(tuple(map(int, words[::2])), tuple(words[1::2]), phrasing)
        fits = all(1 <= term <= LARGEST_TERM for term in problem.terms)
        return problem if fits and min(problem.results) >= 0 else None
    return None


def sums(split: SumSplit, number: int, seed: int = 0) -> list[Sum]:
    """Sums of a split, no two with the same terms; those of "test" have terms that no sum of "train" has.

    Args:
        split: Where from.
        number: How many.
        seed: Of the choice; a smaller number gives the first of a larger one.

    Raises:
        ValueError: If there are not as many.
    """
    there = _number_of_sums(split)
    if not 0 <= number <= there:
        raise ValueError(f"{number} sums are asked for; allowed: 0 to {there} of the split {split!r}")
    rng = Random(seed)
    chosen: dict[tuple[object, ...], Sum] = {}
    while len(chosen) < number:
        problem = sum_problem(rng, split)
        chosen.setdefault((problem.terms, problem.signs), problem)
    return list(chosen.values())


@cache
def _number_of_sums(split: SumSplit) -> int:
    return sum(
        min(Sum(terms, signs).results) >= 0 and sum_split(terms, signs) == split
        for count in (2, 3)
        for terms in product(range(1, LARGEST_TERM + 1), repeat=count)
        for signs in product(("plus", "minus"), repeat=count - 1)
    )


def orders(problem: Sum) -> list[Sum]:
    """The sum with its terms in every order in which no result on the way is negative; as it stands comes first."""
    signed = [("plus", problem.terms[0]), *zip(problem.signs, problem.terms[1:], strict=True)]
    found = {problem: None}
    for order in permutations(signed):
        if order[0][0] == "plus":
            other = Sum(
                tuple(term for _, term in order), tuple(sign for sign, _ in order[1:]), problem.phrasing
            )
            if min(other.results) >= 0 and max(other.results) <= LARGEST_NUMBER:
                found[other] = None
    return list(found)


def guess(problem: Sum, rng: Random) -> tuple[str, int]:
    """A rationale that stops before its last result, and an answer that is wrong by one or two."""
    *done, last = problem.steps()
    slips = [problem.result + slip for slip in (-2, -1, 1, 2) if 0 <= problem.result + slip <= LARGEST_NUMBER]
    return " ".join(f"{step} ." for step in [*done, last.partition(_IS)[0]]), rng.choice(slips)


def evaluation(problem: Sum, rationale: str, answer: str) -> tuple[str, str]:
    """What a careful reader says of a rationale and its answer.

    Args:
        problem: The sum.
        rationale: Its steps, in any order of the terms, with "is" or "makes".
        answer: The answer given.

    Returns:
        Reasons, and the verdict: "correct"; "wrong" from the first wrong step on, or where the answer is not what the
        steps lead to; "uncertain" if steps are missing or are not of this sum.
    """
    steps = rationale.replace(_MAKES, _IS)
    chain = f"{steps} the answer is {answer} ."
    said = [verdict(order, chain) for order in orders(problem)]
    if "correct ." in said:
        return f"{steps} the answer is correct .", "correct"
    faults = [found for text in said if (found := _WRONG.fullmatch(text))]
    if faults:
        claim, right = faults[0]["claim"], faults[0]["right"]
        before, _, after = steps.partition(f"{claim} is ")
        return f"{before}{claim} is {right} not {after.split()[0]} . the answer is wrong .", "wrong"
    if any(
        verdict(order, f"{steps} the answer is {problem.result} .") == "correct ."
        for order in orders(problem)
    ):
        return f"the answer is {problem.result} not {answer} . the answer is wrong .", "wrong"
    return "the rationale is not full . the answer is uncertain .", "uncertain"


def evaluation_prompt(question: str, rationale: str, answer: str, shows: str = "all") -> str:
    """`judges.self_evaluation.evaluation_prompt` in the toy's words, which the bundled models know.

    Args:
        question: The instruction's text.
        rationale: The steps.
        answer: The answer.
        shows: "all", or "rationale" for the chain of thought alone.
    """
    chain = f"{rationale} the answer is {answer} ."
    return chain if shows == "rationale" else verdict_prompt(question, chain)
