"""What the scripts in `evaluation/metrics` build on; imported only by them, since it loads the library evaluate.

The scripts must not import evaluate themselves with a comment behind it: its loader takes that for an address.
"""

from __future__ import annotations

from typing import Protocol

from datasets import Features, Value
from evaluate import Metric, MetricInfo  # type: ignore[import-untyped]


class Found(Protocol):
    """A figure with its interval and standard error."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def standard_error(self) -> float: ...  # noqa: D102


def metric_info(description: str, inputs: str, columns: dict[str, str]) -> MetricInfo:
    """Information of a metric.

    Args:
        description: What it measures.
        inputs: What `compute` takes and returns.
        columns: Names of the columns and their types, as `datasets.Value` calls them.
    """
    return MetricInfo(
        description=description,
        citation="",
        inputs_description=inputs,
        features=Features({name: Value(kind) for name, kind in columns.items()}),
    )


def flat(name: str, found: Found) -> dict[str, float]:
    """The value under the metric's name, ends and standard error after it: `evaluate.combine` keeps them apart."""
    return {
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_standard_error": found.standard_error,
    }


__all__ = ["Metric", "flat", "metric_info"]
