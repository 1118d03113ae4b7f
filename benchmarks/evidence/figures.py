"""The figures file, and what claims and tables ask of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evidence.cells import Figures

STEERED_LAYERS = slice(1, 5)  # all but the first and the last of six


class Evidence:
    """What was measured, by study, arm and seed.

    Args:
        figures: As `collect` makes them.
    """

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.seeds: list[str] = sorted(figures["studies"]["before"])

    @classmethod
    def load(cls, path: Path) -> Evidence:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def study(self, name: str) -> list[Figures]:
        """One of the studies, by seed."""
        return [self.figures["studies"][name][seed] for seed in self.seeds]

    def arm(self, name: str) -> list[Figures]:
        """One of the arms, by seed."""
        return [self.figures["arms"][name][seed] for seed in self.seeds]

    def right(self, name: str) -> list[float]:
        """Share of held-out answers right after training, by seed."""
        return [figures["shares"]["right"] for figures in self.arm(name)]

    def before(self, which: str = "before") -> list[float]:
        return [figures[which]["right"] for figures in self.study("before")]

    def difference(self, better: str, worse: str) -> list[float]:
        return [a - b for a, b in zip(self.right(better), self.right(worse), strict=True)]

    def gain(self, name: str) -> list[float]:
        return [after - before for after, before in zip(self.right(name), self.before(), strict=True)]

    def of_pairs(self, name: str, key: str) -> list[float]:
        """A figure of an arm's pairs, added up over its rounds where it counts something."""
        return [sum(one[key] for one in figures["rounds"]) for figures in self.arm(name)]

    def decisive_right(self, name: str) -> list[float]:
        return [
            sum(one["decisive_right"] * one["decisive"] for one in figures["rounds"])
            / sum(one["decisive"] for one in figures["rounds"])
            for figures in self.arm(name)
        ]

    def rightness_gap(self, one: str, other: str) -> list[float]:
        return [a - b for a, b in zip(self.decisive_right(one), self.decisive_right(other), strict=True)]

    def per_pair(self, name: str, key: str) -> list[float]:
        """Tokens or CPU seconds per kept pair."""
        return [a / b for a, b in zip(self.of_pairs(name, key), self.of_pairs(name, "kept"), strict=True)]

    def lowest_cosine(self, sets: Sequence[str]) -> list[float]:
        """Lowest cosine with the reference over criteria, steered layers and sets of instructions."""
        return [
            min(min(values[STEERED_LAYERS]) for name in sets for values in figures["cosines"][name].values())
            for figures in self.study("stability")
        ]

    def early_accuracy(self, name: str, share: float = 0.25) -> list[float]:
        """Mean train reward accuracy over the first part of the run."""
        return [fmean(y for x, y in figures["curve"] if x <= share) for figures in self.arm(name)]

    def early_accuracy_gap(self, fast: str, slow: str) -> list[float]:
        both = zip(self.early_accuracy(fast), self.early_accuracy(slow), strict=True)
        return [one - other for one, other in both]

    def speed_and_result(self, names: Sequence[str]) -> list[float]:
        """Rank correlation over arms of the early train reward accuracy and the share right after training."""
        speeds, results = (zip(*map(of, names), strict=True) for of in (self.early_accuracy, self.right))
        return [
            rank_correlation([result for _, result in sorted(zip(*seed, strict=True))])
            for seed in zip(speeds, results, strict=True)
        ]

    def inner_optimum(self) -> list[float]:
        """Share of the criteria whose best positive strength is neither the smallest nor the largest, minus 1/2."""
        found = []
        for figures in self.study("strengths"):
            best = [values.index(max(values)) for values in self._criteria(figures, "positive")]
            found.append(fmean(0 < place < len(figures["gammas"]) - 1 for place in best) - 0.5)
        return found

    def monotone_negatives(self) -> list[float]:
        """Rank correlations of the negative strength's size with "of all" right, and with falling reward."""
        found = []
        for figures in self.study("strengths"):
            rewards = self._criteria(figures, "negative")
            right = [[one["of all"] for one in rows] for rows in self._criteria(figures, "right")]
            both = [*(rank_correlation([-v for v in row]) for row in rewards), *map(rank_correlation, right)]
            found.append(min(both))
        return found

    def regret(self, size: str) -> list[float]:
        return [
            max(
                found["sub-samples"][size]["regret"]
                for found in figures["criteria"].values()
                if size in found["sub-samples"]
            )
            for figures in self.study("strengths")
        ]

    def layer_gap(self, one: tuple[int, int], other: tuple[int, int]) -> list[float]:
        """Difference of the widest gaps between both signs' rewards, mean over criteria."""
        return [
            fmean(widest(rows, one) - widest(rows, other) for rows in figures["criteria"].values())
            for figures in self.study("layers")
        ]

    def two_turn_gap(self, one: str, other: str) -> list[float]:
        return [
            a["two turns"]["right"] - b["two turns"]["right"]
            for a, b in zip(self.arm(one), self.arm(other), strict=True)
        ]

    def _criteria(self, figures: Figures, key: str) -> list[Any]:
        return [found[key] for found in figures["criteria"].values()]


def widest(rows: Sequence[Figures], window: tuple[int, int]) -> float:
    """Widest gap between the signs at a window of layers, among strengths that leave the text whole."""
    gaps = [
        row["positive"] - row["negative"]
        for row in rows
        if tuple(row["layers"]) == window and row["broken"] <= 0.1
    ]
    return max(gaps, default=0.0)


def rank_correlation(values: Sequence[float]) -> float:
    """Kendall's tau of values with their places."""
    pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
    return fmean((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)


def mean(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"
