"""Which cells are measured, in an order that has something to show early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evidence import arms, studies
from evidence.cells import Cell, Figures, measure_all


def measure(folder: Path, seeds: Sequence[int], quick: bool, workers: int) -> Figures:
    """Measures what is missing; returns what an arm may spend."""
    measure_all(folder, planned(seeds, quick), workers)
    return asdict(arms.QUICK if quick else arms.FULL)


def planned(seeds: Sequence[int], quick: bool) -> list[Cell]:
    """All cells, seed by seed."""
    chosen, scale = (arms.IN_SHORT, arms.QUICK) if quick else (arms.ALL, arms.FULL)
    return [cell for seed in seeds for cell in (*arms.cells(seed, chosen, scale), *studies.cells(seed))]
