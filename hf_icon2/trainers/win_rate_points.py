"""The curve of win rates in a training: its points, in the trainer's log and out of it, and what they warn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_icon2.evaluation.win_rate import WinRate
from hf_icon2.trainers.monitor import METRIC

_PREFIX = "eval_win_rate"
# Log entry -> field of a point. Names begin with eval_, which report_to integrations file under evaluation.
_LOGGED = {
    _PREFIX: "win_rate",
    f"{_PREFIX}_low": "low",
    f"{_PREFIX}_high": "high",
    f"{_PREFIX}_length": "length",
    f"{_PREFIX}_reference_length": "reference_length",
    f"{_PREFIX}_duplicates": "duplicates",
    f"{_PREFIX}_flips": "flips",
    f"{_PREFIX}_failed": "failed",
    f"{_PREFIX}_train_accuracy": "train_accuracy",
}

HACKED_ACCURACY = 0.95
"""Train reward accuracy at which answers should be better by now; in the paper's hacked runs it is 0.98."""


@dataclass(frozen=True)
class WinRatePoint:
    """The policy against the reference at one step.

    Args:
        step: Optimizer step; 0 is before training.
        win_rate: Wins and half of the ties, 0 to 1; NaN if the judge gave no verdict.
        low: Lower end of its 95 % interval, from resampling prompts.
        high: Upper end.
        length: Mean length of the policy's answers in characters.
        reference_length: The same of the reference's.
        duplicates: Share of the policy's answers that another prompt gets too.
        flips: Share of pairs on which the judge contradicts itself when seats are swapped; NaN where all are equal.
        failed: Share of pairs without a verdict.
        train_accuracy: Mean train reward accuracy since the point before; None where the trainer has none.
        warnings: Why the win rate may mislead, in words.
    """

    step: int
    win_rate: float
    low: float
    high: float
    length: float
    reference_length: float
    duplicates: float
    flips: float
    failed: float
    train_accuracy: float | None = None
    warnings: tuple[str, ...] = ()

    def to_logs(self) -> dict[str, float]:
        """For a trainer's log; what is not known is left out, but never the win rate."""
        values = {key: getattr(self, field) for key, field in _LOGGED.items()}
        return {key: value for key, value in values.items() if key == _PREFIX or _is_number(value)}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {
            name: value if not isinstance(value, float) or _is_number(value) else None
            for name, value in asdict(self).items()
        } | {"warnings": list(self.warnings)}


def point_of(rate: WinRate, step: int, log_history: Sequence[Mapping[str, Any]]) -> WinRatePoint:
    """A point from a win rate, and from what the trainer has logged so far."""
    total = rate.failed + rate.wins + rate.losses + rate.abstained
    return WinRatePoint(
        step,
        *rate.win_rate[:3],
        length=rate.first.mean_length,
        reference_length=rate.second.mean_length,
        duplicates=rate.first.duplicates,
        flips=rate.flip_rate.value,
        failed=rate.failed / total,
        train_accuracy=_train_accuracy(log_history),
        # At step 0 both sides are one model, and that they are alike is no doubt.
        warnings=tuple(rate.warnings) if step else (),
    )


def points_of(log_history: Sequence[Mapping[str, Any]]) -> list[WinRatePoint]:
    """The points in a trainer's log, such as that of a checkpoint; their warnings are not in it."""
    nothing = dict.fromkeys(_LOGGED.values(), float("nan")) | {"train_accuracy": None}
    found = {
        entry["step"]: {field: entry[key] for key, field in _LOGGED.items() if key in entry}
        for entry in log_history
        if f"{_PREFIX}_length" in entry
    }
    return [WinRatePoint(step=step, **nothing | values) for step, values in found.items()]


def hacking_signs(points: Sequence[WinRatePoint]) -> list[str]:
    """Signs of reward hacking at the latest point, in sentences: accuracy high or rising, and answers no better."""
    latest = points[-1]
    known = [point for point in points if _is_number(point.win_rate)]
    if latest.train_accuracy is None or latest not in known:
        return []
    best = max(known, key=lambda point: point.win_rate)
    if latest.high < best.win_rate and latest.train_accuracy >= (best.train_accuracy or 0):
        return [
            f"The win rate has fallen since step {best.step} while accuracy has not; the model may be learning what "
            "gives the pairs away instead of what is better. Take the checkpoint of the best win rate, and look at "
            "a few answers."
        ]
    if latest.low <= 0.5 and latest.train_accuracy >= HACKED_ACCURACY:
        return [
            "The pairs are told apart almost always, but the answers do not beat the reference's; look at what gives "
            "the pairs away: style, length, broken text."
        ]
    return []


def _train_accuracy(log_history: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean of the log entries since the point before."""
    values: list[float] = []
    for entry in reversed(log_history):
        if f"{_PREFIX}_length" in entry and values:
            break
        if METRIC in entry:
            values.append(entry[METRIC])
    return sum(values) / len(values) if values else None


def _is_number(value: float | None) -> bool:
    return value is not None and value == value
