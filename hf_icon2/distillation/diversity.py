"""The most different of several texts."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein


def most_different(texts: Sequence[str], count: int) -> list[int]:
    """Greedy max-min selection by edit distance (PAD): start with the first, add what is farthest from all chosen.

    Args:
        texts: Candidates; of equally far ones the first is taken.
        count: How many to choose.

    Returns:
        Their indices in the order chosen; fewer than `count` where there are not as many distinct texts.
    """
    chosen = [0] if texts else []
    nearest = [Levenshtein.distance(texts[0], text) for text in texts]
    while len(chosen) < count and max(nearest, default=0) > 0:
        farthest = nearest.index(max(nearest))
        chosen.append(farthest)
        nearest = [
            min(distance, Levenshtein.distance(texts[farthest], text))
            for distance, text in zip(nearest, texts, strict=True)
        ]
    return chosen
