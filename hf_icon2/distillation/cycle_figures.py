"""A cycle of CycleAlign in figures, from its rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hf_icon2.distillation.agreement import Agreement, agreement
from hf_icon2.distillation.demonstrations import Agreed
from hf_icon2.judges.verdicts import Demonstration
from hf_icon2.judges.wording import question_text
from hf_icon2.prompts import answer_text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """An instruction that both have ranked.

    Args:
        candidate: Row of `prompt`, `responses`, `mean_log_probs` and `tokens`.
        scores: The black box's.
        agreement: Of the black box (first) with the student's mean log-probabilities (second).
    """

    candidate: Row
    scores: tuple[float, ...]
    agreement: Agreement

    @property
    def is_agreed(self) -> bool:
        """Whether both agree on all responses but one at most, and on two at least (our threshold)."""
        return len(self.agreement.common) >= max(2, len(self.scores) - 1)

    @property
    def winner(self) -> int:
        """Index of the best response: of the common sequence where it is agreed on, else the black box's."""
        return self.agreement.common[0] if self.is_agreed else self.scores.index(max(self.scores))

    def agreed(self) -> Agreed:
        """The common sequence as a demonstration."""
        texts = [answer_text(response) for response in self.candidate["responses"]]
        common = self.agreement.common
        question = question_text(self.candidate["prompt"])
        shown = Demonstration(question, tuple(texts[index] for index in common))
        return Agreed(shown, len(common) / len(texts), self.agreement.margin)


def compare(candidates: Iterable[Row], rankings: Iterable[Row]) -> list[Compared]:
    """The instructions that have scores of both, in the order of the candidates."""
    scores = {row["id"]: tuple(row["scores"]) for row in rankings if row["scores"] is not None}
    return [
        Compared(row, scores[row["id"]], agreement(scores[row["id"]], row["mean_log_probs"]))
        for row in candidates
        if row["id"] in scores
    ]


def cycle_figures(compared: Sequence[Compared], rankings: Sequence[Row]) -> dict[str, Any]:
    """Agreement and lengths of a cycle.

    Args:
        compared: What both have ranked, at least one.
        rankings: Rows of all instructions, `reason` where one was dropped.

    Returns:
        `tau` and `lcs`: means of Kendall's tau and of the longest common subsequence. `agreed`: share of the ranked
        instructions from which a demonstration could be made. `tokens`: mean lengths of all responses, of winners
        that both agree on and of other winners; where agreement favours length, the first two differ.
    """
    reasons = Counter(row["reason"].partition(":")[0] for row in rankings if row["scores"] is None)
    winners = [(one.candidate["tokens"][one.winner], one.is_agreed) for one in compared]
    return {
        "instructions": len(rankings),
        "ranked": len(compared),
        "dropped": dict(reasons.most_common()),
        "tau": fmean(one.agreement.tau for one in compared),
        "lcs": fmean(len(one.agreement.common) for one in compared),
        "agreed": fmean(one.is_agreed for one in compared),
        "tokens": {
            "responses": _mean(tokens for one in compared for tokens in one.candidate["tokens"]),
            "agreed_winners": _mean(tokens for tokens, is_agreed in winners if is_agreed),
            "other_winners": _mean(tokens for tokens, is_agreed in winners if not is_agreed),
        },
    }


def why_ended(cycles: Sequence[Row], most: int, *, stop_early: bool) -> str | None:
    """Why no cycle follows on these, as a sentence without its end; None where one does."""
    if len(cycles) >= most:
        return f"all {most} cycles are done"
    if stop_early and len(cycles) > 1 and cycles[-1]["tau"] <= cycles[-2]["tau"]:
        before, after = (row["tau"] for row in cycles[-2:])
        return f"Kendall's tau did not rise in cycle {len(cycles)}: {after:.3f} after {before:.3f}"
    return None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None
