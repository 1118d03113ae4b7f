"""What rows of every kind are checked for before they are tokenized, and after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


def check_columns(dataset: object, name: str, wanted: set[str], *, source: str) -> set[str]:
    """The columns that are missing.

    Args:
        dataset: What was passed.
        name: The argument it was passed as, for messages.
        wanted: Columns it needs.
        source: Where rows come from, as advice, for messages.

    Raises:
        TypeError: If it is no `datasets.Dataset`.
        ValueError: If it has no rows.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is a {type(dataset).__name__}; give a datasets.Dataset")
    if len(dataset) == 0:
        raise ValueError(f"{name} has no rows, so there is nothing to learn from; {source}")
    return wanted - set(dataset.column_names)


def leave_out_cut(
    rows: Dataset, name: str, fits: Callable[[Row], bool], *, what: str, why: str, remedy: str
) -> Dataset:
    """Rows that fit; the others are counted in a warning.

    Args:
        rows: Tokenized, with their number as `row`.
        name: The argument they were passed as.
        fits: Whether a row can stay.
        what: Of those left out, after "3 of 9 rows".
        why: They are left out.
        remedy: If none is left.

    Raises:
        ValueError: If none is left.
    """
    kept = rows.filter(fits, desc=f"Measuring {name}")
    if len(kept) == len(rows):
        return rows
    first = min(set(rows["row"]) - set(kept["row"]))
    left_out = f"{len(rows) - len(kept)} of {len(rows)} rows of {name} {what} (the first is row {first})"
    if not len(kept):
        raise ValueError(f"{left_out}, so none is left; {remedy}")
    logger.warning("%s; they are left out, because %s", left_out, why)
    return kept
