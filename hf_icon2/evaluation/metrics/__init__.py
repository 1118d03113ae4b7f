"""Metrics that `evaluate.load` loads from this package, without the Hub."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load(metric_path("raw_win_rate"))`.

    Raises:
        ValueError: If there is no such metric.
    """
    names = sorted(path.parent.name for path in _FOLDER.glob("*/*.py"))
    if name not in names:
        raise ValueError(f"there is no metric {name!r}; allowed: {', '.join(names)}")
    return str(_FOLDER / name)
