"""What a collection is worth, in figures: how much is kept, how far it agrees with itself, how much of it is right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from hf_icon2.distillation.reasoning.answers import answer_value, same_answer
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.judges.verdicts import VERDICTS

Row = Mapping[str, Any]


def chain_figures(questions: Mapping[str, Question], rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of chains of thought.

    Args:
        questions: By their ids.
        rows: Rows of `id`, `rationale` and `label`.

    Returns:
        `questions`, those with a chain; `repeated`, chains whose very words another of their question has before them;
        `agreement`, the share of a question's chains that give its most frequent answer, on average over
        questions with two or more; `known`, chains of questions whose right answer is known, and `accuracy`, the
        share of these that end in it. A share of nothing is None.
    """
    by_question: dict[str, list[Hashable]] = defaultdict(list)
    for row in rows:
        by_question[row["id"]].append(answer_value(questions[row["id"]].task, row["label"]))
    right = [value for row in rows if (value := is_right(questions, row)) is not None]
    return {
        "questions": len(by_question),
        "repeated": len(rows) - len({(row["id"], row["rationale"], row["label"]) for row in rows}),
        "agreement": _agreement(by_question.values()),
        "known": len(right),
        "accuracy": _share(right),
    }


def evaluation_figures(questions: Mapping[str, Question], rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of evaluations.

    Args:
        questions: By their ids.
        rows: Rows of `id`, `chain`, `label` and `verdict`.

    Returns:
        `verdicts`, how many there are of each; `agreement`, the share of a chain's evaluations that give its most
        frequent verdict, on average over chains with two or more; `known`, evaluations of chains that are known to
        be right or wrong, and `accuracy`, the share of these that say so, where "uncertain" says neither. A teacher
        that is mostly right makes "correct" the usual verdict; so `balanced_accuracy` is the mean of that share
        among right chains and among wrong ones. A share of nothing is None.
    """
    by_chain: dict[tuple[str, int], list[Hashable]] = defaultdict(list)
    for row in rows:
        by_chain[row["id"], row["chain"]].append(row["verdict"])
    judged: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        right = is_right(questions, row)
        if right is not None:
            judged[right].append(row["verdict"] == ("correct" if right else "wrong"))
    of_right, of_wrong = _share(judged[True]), _share(judged[False])
    counts = Counter(row["verdict"] for row in rows)
    return {
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "agreement": _agreement(by_chain.values()),
        "known": len(judged[True]) + len(judged[False]),
        "accuracy": _share(judged[True] + judged[False]),
        "balanced_accuracy": None if of_right is None or of_wrong is None else (of_right + of_wrong) / 2,
    }


def is_right(questions: Mapping[str, Question], row: Row) -> bool | None:
    """Whether a row's `label` is the right answer to the question of its `id`; None where that is not known."""
    question = questions[row["id"]]
    if question.answer is None:
        return None
    return same_answer(question.task, row["label"], question.answer)


def _agreement(groups: Iterable[Sequence[Hashable]]) -> float | None:
    shares = [Counter(group).most_common(1)[0][1] / len(group) for group in groups if len(group) > 1]
    return fmean(shares) if shares else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
