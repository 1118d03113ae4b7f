"""Where two rankings agree: the longest sequence that both give in the same order, and Kendall's tau.

Functions of scores, higher for a better answer; a score may be anything that can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_icon2.trainers.rankings import kendall_tau


@dataclass(frozen=True)
class Agreement:
    """How far two rankings of the same n answers agree.

    Args:
        tau: Kendall's tau-a, -1 to 1.
        common: Indices of the answers of the longest common subsequence, best first.
        margin: Least step between neighbours of that sequence in the second ranking, in its unit; above 0.
    """

    tau: float
    common: tuple[int, ...]
    margin: float


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Compares two rankings of the same answers.

    Args:
        first: Scores of n answers, n at least 2.
        second: Scores of the same answers; the margin is in their unit.

    Raises:
        ValueError: If there are fewer than 2 answers, or not as many scores in both.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"got {len(first)} and {len(second)} scores; two rankings of the same 2 or more answers are compared"
        )
    common = longest_common(first, second)
    steps = [second[better] - second[worse] for better, worse in zip(common, common[1:], strict=False)]
    rows = [torch.tensor([scores], dtype=torch.float64) for scores in (first, second)]
    return Agreement(float(kendall_tau(*rows)), common, min(steps, default=0.0))


def longest_common(first: Sequence[float], second: Sequence[float]) -> tuple[int, ...]:
    """Longest common subsequence of two rankings, best first.

    Each answer in it is better than the next in both rankings, so that two answers which one ranking does not tell
    apart are never in it together. For rankings without ties this is the longest common subsequence of two
    permutations. Of several of that length the one whose answers stand higher in the first ranking is taken.

    Args:
        first: Scores of n answers.
        second: Scores of the same answers.

    Returns:
        Indices of answers, best first; empty for no answers.
    """

    def rank(chain: tuple[int, ...]) -> tuple[int, list[float]]:
        return len(chain), [first[answer] for answer in chain]

    longest: dict[int, tuple[int, ...]] = {}  # that begins with an answer
    for answer in sorted(range(len(first)), key=first.__getitem__):  # worst first: what may follow is known
        following = [
            chain
            for worse, chain in longest.items()
            if first[worse] < first[answer] and second[worse] < second[answer]
        ]
        longest[answer] = (answer, *max(following, key=rank, default=()))
    return max(longest.values(), key=rank, default=())
