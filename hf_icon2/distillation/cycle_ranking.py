"""A black box's rankings of a cycle's candidates: every instruction is ranked, or dropped with a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_icon2.distillation.cycle_state import CycleState, Row
from hf_icon2.distillation.spending import added, spent
from hf_icon2.prompts import answer_text

if TYPE_CHECKING:
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.ranking import Ranker
    from hf_icon2.judges.verdicts import Demonstration, Ranking

LEAST_RANKED = 0.1
"""Share of the instructions that must be ranked for a cycle to train on them (our choice)."""


def rank_candidates(
    ranker: Ranker,
    chat: ChatClient | None,
    state: CycleState,
    questions: Sequence[str],
    candidates: Sequence[Row],
    demonstrations: Sequence[Demonstration],
    *,
    missing: str,
    progress: str | None,
) -> list[Row]:
    """Has a black box rank what is not ranked yet, and keeps it.

    Args:
        ranker: The black box.
        chat: What it asks through, if it does: its requests, tokens and cost are noted.
        state: Where rankings are kept.
        questions: Of all instructions; their numbers are their ids.
        candidates: Rows of `id` and `responses`, of those that have any.
        demonstrations: Shown to the black box.
        missing: The reason for instructions without candidates.
        progress: Name of the progress bar; None shows none.

    Returns:
        Per instruction its `id`, and `scores` or a `reason`.

    Raises:
        OSError: If the black box stopped before all were ranked; what is ranked is kept.
        ValueError: If fewer than a tenth are ranked.
    """
    kept = state.rankings or []
    if len(kept) == len(questions):
        return kept
    known = {row["id"]: row for row in kept}
    waiting = [row for row in candidates if row["id"] not in known]
    before = spent(chat)
    answers = [[answer_text(response) for response in row["responses"]] for row in waiting]
    found = ranker.rank(
        [questions[int(row["id"])] for row in waiting],
        answers,
        demonstrations,
        progress=progress,
    )
    _check(found, answers)
    known |= {row["id"]: _row(row["id"], one) for row, one in zip(waiting, found, strict=True)}
    ids = map(str, range(len(questions)))
    rows = [known.get(key, {"id": key, "scores": None, "reason": missing}) for key in ids]
    dropped = [{**row, "prompt": questions[int(row["id"])]} for row in rows if row["scores"] is None]
    state.write_rows("dropped", dropped)
    if (usage := added(state.usage, before, spent(chat))) is not None:
        state.write("usage", usage)
    stops = [str(one.reason) for one in found if one.stopped]
    if stops:
        _stop(state, rows, stops[0])
    _check_number(state, rows)
    state.write_rows("rankings", rows)
    return rows


def _check(found: Sequence[Ranking], answers: Sequence[Sequence[str]]) -> None:
    """Refuses what no ranker may return before it is kept."""
    if len(found) != len(answers):
        raise ValueError(
            f"the ranker returned {len(found)} rankings for {len(answers)} questions; it must return one per question"
        )
    for one, texts in zip(found, answers, strict=True):
        scores = one.scores
        if scores is not None and len(scores) != len(texts):
            raise ValueError(
                f"the ranker returned {len(scores)} scores for {len(texts)} answers; it must return one per answer"
            )


def _row(key: str, ranking: Ranking) -> Row:
    reason = ranking.reason
    scores = None if ranking.scores is None else [float(score) for score in ranking.scores]  # NumPy's too
    if scores is not None and not all(map(math.isfinite, scores)):
        scores, reason = None, "a score is not finite"
    elif scores is not None and len(set(scores)) == 1:
        scores, reason = None, "all responses are equally good"
    return {"id": key, "scores": scores, "reason": reason}


def _stop(state: CycleState, rows: Sequence[Row], reason: str) -> None:
    """Keeps what is ranked, so that it is not asked again even where no chat cache is, and ends."""
    ranked = [row for row in rows if row["scores"] is not None]
    if ranked:
        state.write_rows("rankings", ranked)
    raise OSError(
        f"the black box stopped: {reason}; {len(ranked)} of {len(rows)} instructions are ranked and kept in "
        f"{state.path}, and nothing was trained on them yet; mend the cause or raise the budget, and the same call "
        "goes on"
    )


def _check_number(state: CycleState, rows: Sequence[Row]) -> None:
    ranked = sum(row["scores"] is not None for row in rows)
    if ranked < max(1, LEAST_RANKED * len(rows)):
        example = next(row["reason"] for row in rows if row["scores"] is None)
        raise ValueError(
            f"{ranked} of {len(rows)} instructions are ranked, and a tenth is needed to learn from; the first "
            f"reason is: {example} (all are in {state.path / 'dropped.jsonl'}); choose another black box, or raise "
            "sampling.samples where the student's responses are alike"
        )
