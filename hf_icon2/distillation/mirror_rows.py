"""Training rows of Mind's Mirror: `prompt`, `label`, `rationale`, and by `id` and `chain` where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from hf_icon2.distillation.mirror_recipe import Training
from hf_icon2.distillation.reasoning.answers import same_answer
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.judges.evaluation_wording import EvaluationWording, Shows, evaluation_prompt

Row = Mapping[str, Any]


def reasoning_rows(
    chains: Iterable[Row], questions: Mapping[str, Question], settings: Training
) -> list[dict[str, Any]]:
    """What the second stage learns: every chain of every question, with its own label or the gold one.

    Args:
        chains: Rows of `id`, `chain`, `prompt`, `rationale` and `label`.
        questions: By id; chains of others are left out.
        settings: `labels` and `keep_wrong`. Without a gold answer a chain's own label stands.
    """
    rows = []
    for chain in chains:
        question = questions.get(chain["id"])
        label = None if question is None else _label(chain, question, settings)
        if label is not None:
            kept = {name: chain[name] for name in ("id", "chain", "prompt", "rationale")}
            rows.append({**kept, "label": label, "kind": "reasoning"})
    return rows


def verdict_rows(
    evaluations: Iterable[Row],
    ids: Collection[str],
    shows: Shows,
    wording: EvaluationWording = evaluation_prompt,
) -> list[dict[str, Any]]:
    """What the first stage learns: every evaluation of every chain, in the words of `self_evaluate`.

    Args:
        evaluations: Rows of `id`, `chain`, `number`, `prompt`, `rationale`, `label`, `evaluation`, `verdict`.
        ids: Of the questions; evaluations of others are left out.
        shows: See `evaluation_prompt`.
        wording: How the student is asked to judge.
    """
    return [
        {
            **{name: row[name] for name in ("id", "chain", "number")},
            "prompt": wording(row["prompt"], row["rationale"], row["label"], shows),
            "rationale": row["evaluation"],
            "label": row["verdict"],
            "kind": "verdict",
        }
        for row in evaluations
        if row["id"] in ids
    ]


def with_replay(
    rows: Sequence[Row], verdicts: Sequence[Row], share: float, seed: int
) -> list[dict[str, Any]]:
    """Rows, and as many verdict rows drawn at random that they make up a share of all, or all there are."""
    number = min(len(verdicts), round(share / (1 - share) * len(rows)))
    return [dict(row) for row in (*rows, *Random(seed).sample(verdicts, number))]


def epochs_over_rows(passes: float, rows: Sequence[Row]) -> float:
    """Passes over rows that make as many updates as `passes` over their questions with one row each.

    With m chains per question that is passes / m, the paper's rule; replayed rows come on top.

    Args:
        passes: Over the questions.
        rows: Of which those of the kind of the first are the stage's own.
    """
    own = [row for row in rows if row["kind"] == rows[0]["kind"]]
    return passes * len({row["id"] for row in own}) / len(own)


def majority(labels: Sequence[str], value: Callable[[str], Hashable] = str) -> str:
    """The most frequent one, of equally frequent ones the first; those of the same value are counted together."""
    values = [value(label) for label in labels]
    return labels[values.index(Counter(values).most_common(1)[0][0])]


def _label(chain: Row, question: Question, settings: Training) -> str | None:
    """What a chain teaches; None where it contradicts the gold answer that is to be learned."""
    if settings.labels == "teacher" or question.answer is None:
        return str(chain["label"])
    is_right = same_answer(question.task, chain["label"], question.answer)
    return question.answer if is_right or settings.keep_wrong else None
