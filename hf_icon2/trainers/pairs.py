"""What a dataset of preference pairs must hold to be trained on, and what it says about its origin."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

PAIR_COLUMNS = ("weight", "margin")
"""Float columns that shape a pair's loss; see `losses.dpo_loss`."""


def check_pairs(dataset: object, name: str) -> set[str]:
    """Refuses a dataset that cannot be trained on, before anything is tokenized.

    Args:
        dataset: What the user passed; a mapping of datasets counts where each does.
        name: The argument it was passed as, for the message.

    Returns:
        Names of the columns.

    Raises:
        TypeError: If it is no dataset of the `datasets` library.
        ValueError: If it is empty, lacks a column, or its weights or margins are not usable numbers.
    """
    if isinstance(dataset, Mapping):
        return {column for key, part in dataset.items() for column in check_pairs(part, f"{name}[{key!r}]")}
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(
            f"{name} is a {type(dataset).__name__}; give a datasets.Dataset or IterableDataset, for instance "
            "Dataset.from_list(rows)"
        )
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(
            f"{name} has no rows, so there is nothing to learn from; if a filter or a self-check dropped "
            "every pair, loosen it or generate more instructions"
        )
    missing = sorted({"chosen", "rejected"} - set(first))
    if missing:
        raise ValueError(
            f"{name} lacks the column(s) {', '.join(missing)}; it has {', '.join(sorted(first))}; pairs need "
            "chosen and rejected, and prompt unless both begin with it; rename with dataset.rename_column"
        )
    if isinstance(dataset, Dataset):
        for column in set(PAIR_COLUMNS) & set(first):
            _check_numbers(
                dataset[column], f"{name}[{column!r}]", least=0 if column == "weight" else -math.inf
            )
    return set(first)


def _check_numbers(values: Iterable[object], name: str, *, least: float) -> None:
    sign = ", 0 or more," if least == 0 else ""
    for row, value in enumerate(values):
        if not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            raise ValueError(
                f"{name} is {value!r} in row {row}; allowed: a finite number{sign} in every row; fill the "
                "gaps, or remove the column to train on all pairs alike"
            )


def pair_columns(examples: Iterable[Mapping[str, object]]) -> dict[str, Tensor]:
    """The `weight` and `margin` of a batch where its examples have them, each (B,) float32."""
    rows = list(examples)
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float32)
        for name in PAIR_COLUMNS
        if name in rows[0]
    }


def provenance(dataset: Dataset | IterableDataset) -> dict[str, Any]:
    """What the card says about the pairs.

    Args:
        dataset: Pairs, with or without the columns `criterion`, `strength_chosen`, `strength_rejected` and
            `directions_sha256`. A streamed dataset is not read through.

    Returns:
        `rows` (None if streamed), `columns`, `criteria` (rows of `name`, `pairs`, `chosen`, `rejected`),
        `directions` (distinct digests) and `strategies` (names of the ways in which pairs were made, none if unknown).
    """
    columns = list(dataset.column_names or [])
    if not isinstance(dataset, Dataset):
        return {"rows": None, "columns": columns, "criteria": [], "directions": [], "strategies": []}
    return {
        "rows": len(dataset),
        "columns": columns,
        "criteria": _criteria(dataset) if "criterion" in columns else [],
        "directions": _distinct(dataset, "directions_sha256"),
        "strategies": _distinct(dataset, "strategy"),
    }


def _distinct(dataset: Dataset, column: str) -> list[str]:
    """Different texts of a column, sorted; none where it is missing."""
    return sorted(map(str, set(dataset[column]) - {None})) if column in (dataset.column_names or []) else []


def _criteria(dataset: Dataset) -> list[dict[str, object]]:
    """Pairs and strengths per criterion, by name."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, criterion in enumerate(dataset["criterion"]):
        rows["none" if criterion is None else str(criterion)].append(row)
    sides = {
        side: list(dataset[f"strength_{side}"]) if f"strength_{side}" in dataset.column_names else None
        for side in ("chosen", "rejected")
    }
    return [
        {"name": name, "pairs": len(which)}
        | {side: _span([values[row] for row in which] if values else []) for side, values in sides.items()}
        for name, which in sorted(rows.items())
    ]


def _span(strengths: list[float | None]) -> str:
    """`0.1`, or `0.1 to 0.3`; `none` where nothing was steered, `unknown` without a column."""
    known = [strength for strength in strengths if strength is not None]
    if not known:
        return "none" if strengths else "unknown"
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
