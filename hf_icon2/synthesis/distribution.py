"""How consistency scores are spread over instructions and criteria, in figures."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import numpy as np
from datasets import Dataset


class Histogram(TypedDict):
    """How one criterion's scores are spread.

    Keys: `edges`, bins + 1 limits, the same for all criteria; `counts`, all instructions by their score on this
    criterion; `routed`, only those whose best criterion it is.
    """

    edges: list[float]
    counts: list[int]
    routed: list[int]


def routing_shares(scored: Dataset) -> dict[str, float]:
    """Share of the instructions whose best criterion each one is; 0 to 1, summing to 1."""
    counts = Counter(scored["criterion"])
    return {name: counts[name] / len(scored) for name in scored_criteria(scored)}


def score_ranges(scored: Dataset) -> str:
    """Smallest and largest score per criterion of the instructions routed to it, as text."""
    found: dict[str, list[float]] = {}
    for name, score in zip(scored["criterion"], scored["score"], strict=True):
        found.setdefault(name, []).append(score)
    return ", ".join(
        f"{min(of):.4g} to {max(of):.4g} ({name}, {len(of)})" for name, of in sorted(found.items())
    )


def consistency_histogram(scored: Dataset, bins: int = 20) -> dict[str, Histogram]:
    """How the scores of each criterion are spread, in bins that all criteria share.

    Args:
        scored: Rows of `score_consistency`.
        bins: Number of bins between the lowest and the highest score of any criterion.
    """
    names = scored_criteria(scored)
    values = {name: np.array([row[name] for row in scored["consistency"]]) for name in names}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    best = np.array(scored["criterion"])
    return {
        name: Histogram(
            edges=edges.tolist(),
            counts=np.histogram(of, edges)[0].tolist(),
            routed=np.histogram(of[best == name], edges)[0].tolist(),
        )
        for name, of in values.items()
    }


def scored_criteria(scored: Dataset) -> list[str]:
    """The criteria that were scored; refuses rows that were not."""
    needed = ("id", "consistency", "criterion", "score")
    if missing := [name for name in needed if name not in scored.column_names]:
        raise ValueError(
            f"these rows lack {', '.join(missing)} (they have: {', '.join(scored.column_names) or 'nothing'})"
            "; call score_consistency first"
        )
    if len(scored) == 0:
        raise ValueError("there are no scored instructions; score some first")
    return list(scored.features["consistency"])
