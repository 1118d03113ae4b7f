"""What should make one doubt a win rate, in words: odd files of answers, and judges that do not read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from hf_icon2.evaluation.resampling import numbered
from hf_icon2.judges.intervals import Estimate
from hf_icon2.storage import shortened

MOSTLY = 0.5
"""Share of one and the same answer, or of pairs of equal answers, from which it is called out."""
_REPEATED = 0.3  # refusals repeat a little on every benchmark
_MOVED = 0.3
_MUCH_LONGER = 1.5
_ONE_SEAT = 0.3  # position bias of a judge that gives 4 of 5 verdicts to one seat
_RARELY = 0.1


@dataclass(frozen=True)
class Side:
    """The answers of one side; white space at the ends and capitals make no difference.

    Args:
        mean_length: Characters.
        duplicates: Share of answers that are given to another prompt too.
        commonest: Share of the most frequent answer, every prompt weighing the same.
        example: That answer.
    """

    mean_length: float
    duplicates: float
    commonest: float
    example: str


def side_of(answers: Sequence[str], prompts: Sequence[object] | None = None) -> Side:
    """Describes the answers of one side.

    Args:
        answers: One per row, 1 or more.
        prompts: Their prompts, so that one answer to a prompt that occurs twice is no duplicate; None takes every row
            for a prompt of its own.
    """
    groups = range(len(answers)) if prompts is None else numbered(prompts).tolist()
    texts = [_plain(answer) for answer in answers]
    given = Counter(text for text, _ in {*zip(texts, groups, strict=True)})
    asked = Counter(groups)
    shares = dict.fromkeys(texts, 0.0)
    for text, group in zip(texts, groups, strict=True):
        shares[text] += 1 / asked[group]
    commonest = max(shares, key=shares.__getitem__)
    return Side(
        mean_length=fmean(map(len, answers)),
        duplicates=sum(given[text] > 1 for text in texts) / len(texts),
        commonest=round(shares[commonest] / len(asked), 9),
        example=answers[texts.index(commonest)],
    )


def moved(firsts: Sequence[str], seconds: Sequence[str], prompts: Sequence[object] | None = None) -> float:
    """Share of rows whose first answer stands on the second side, but under another prompt.

    Only answers that each side gives once count, so that two models with the same refusal are not taken for it.
    """
    groups = range(len(firsts)) if prompts is None else numbered(prompts).tolist()
    one, other = _places(firsts, groups), _places(seconds, groups)
    return sum(text in other and other[text] != place for text, place in one.items()) / len(firsts)


def same(firsts: Sequence[str], seconds: Sequence[str]) -> float:
    """Share of rows whose two answers are equal."""
    return fmean(first == second for first, second in zip(firsts, seconds, strict=True))


def doubts_about_answers(
    first: Side, second: Side, equal: float, elsewhere: float, won: Estimate
) -> list[str]:
    """What is odd about the answers.

    Args:
        first: The first side.
        second: The second side.
        equal: Share of equal pairs, see `same`.
        elsewhere: Share of rows with an answer out of place, see `moved`.
        won: Win rate of the first side.
    """
    found = []
    if equal == 1:
        found.append("both sides are the same answers: is one file given twice? Such a win rate says nothing")
    elif equal > MOSTLY:
        found.append(f"{equal:.0%} of the pairs are two equal answers, which count as ties")
    for name, side, beats in (("first", first, won.low > 0.5), ("second", second, won.high < 0.5)):
        found += _doubts_about_side(name, side, beats)
    if elsewhere > _MOVED:
        found.append(
            f"{elsewhere:.0%} of the first side's answers stand on the second side under another prompt; are rows "
            "shifted, or joined wrongly?"
        )
    return found + _doubts_about_length(first, second)


def doubts_about_judge(asked: int, decided: Estimate, bias: Estimate, failed: int) -> list[str]:
    """What is odd about the verdicts.

    Args:
        asked: Pairs of different answers with a verdict in both orders.
        decided: Share of them with the same winner in both orders.
        bias: Share of verdicts for the answer shown first, minus one half.
        failed: Pairs without a verdict.
    """
    found = []
    if abs(bias.value) >= _ONE_SEAT and (bias.low > 0 or bias.high < 0):
        seat, verdicts = ("first", 0.5 + bias.value) if bias.value > 0 else ("second", 0.5 - bias.value)
        found.append(
            f"the judge picks the answer shown {seat} in {verdicts:.0%} of its verdicts, whichever it is; "
            "it judges seats, not answers"
        )
    elif decided.value <= _RARELY and decided.high < MOSTLY:
        found.append(
            f"the judge has no winner in {1 - decided.value:.0%} of the {asked} pairs of different answers; a win rate "
            "made of abstentions is near one half whatever the answers"
        )
    if failed:
        found.append(f"{failed} pairs have no verdict and are left out")
    return found


def _doubts_about_side(name: str, side: Side, beats: bool) -> list[str]:
    if side.duplicates and side.commonest > MOSTLY:
        text = (
            f"{side.commonest:.0%} of the {name} side's answers are one and the same ({shortened(side.example)}); a "
            "judge that a constant answer can fool tells nothing about the model"
        )
        return [f"{text}, and this one is fooled: that side wins" if beats else text]
    if side.duplicates > _REPEATED:
        return [
            f"{side.duplicates:.0%} of the {name} side's answers are given to several prompts; was a file duplicated, "
            "or does the model repeat itself?"
        ]
    return []


def _doubts_about_length(first: Side, second: Side) -> list[str]:
    (short, _), (long, name) = sorted(((first.mean_length, "first"), (second.mean_length, "second")))
    if long <= _MUCH_LONGER * short:
        return []
    times = f"{long / short:.1f} times as long" if short else "longer than nothing at all"
    return [f"the {name} side's answers are much longer ({times} on average); many judges favour length"]


def _places(answers: Sequence[str], groups: Sequence[int]) -> dict[str, int]:
    """Prompt of each answer that is given once."""
    texts = [_plain(answer) for answer in answers]
    counts = Counter(texts)
    return {text: group for text, group in zip(texts, groups, strict=True) if counts[text] == 1}


def _plain(answer: str) -> str:
    return answer.strip().casefold()
