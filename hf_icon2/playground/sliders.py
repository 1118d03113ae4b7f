"""How far a criterion's slider goes, and which strengths it recommends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hf_icon2.directions.config import DirectionVectorConfig, StrengthRange
from hf_icon2.directions.vectors import DirectionVectors

_DEFAULT = 0.5  # mean residual norms, where no maximum is known


@dataclass(frozen=True)
class Slider:
    """One criterion's slider.

    Args:
        limit: It goes from -limit to +limit.
        step: Distance of its marks.
        recommended: A strength to start from.
        info: A line for people.
    """

    limit: float
    step: float
    recommended: float
    info: str


def slider(directions: DirectionVectors, name: str) -> Slider:
    """The slider of a criterion: to its safe maximum, or to half a residual norm where none is known."""
    known = directions.config.strengths.get(name, StrengthRange())
    widest = known.maximum if known.maximum else _DEFAULT * _residual_norm(directions, name)
    step = 10.0 ** math.floor(math.log10(widest)) / 20
    limit = _rounded(math.floor(widest / step + 1e-9) * step)
    wanted = limit / 2 if known.positive is None else min(known.positive, limit)
    recommended = _rounded(round(wanted / step) * step)
    info = f"{'start with' if known.positive is None else 'recommended'} {recommended:g}"
    return Slider(limit, _rounded(step), recommended, info if known.maximum else f"{info}; not calibrated")


def strength_note(config: DirectionVectorConfig, steering: Mapping[str, float]) -> str:
    """A warning where several strengths together go beyond what is safe for one; empty otherwise."""
    used = [
        abs(strength) / known.maximum
        for name, strength in steering.items()
        if (known := config.strengths.get(name)) and known.maximum
    ]
    if len([share for share in used if share]) > 1 and sum(used) > 1:
        return "Together these strengths go beyond what is safe for one criterion alone; the text may break."
    return ""


def _residual_norm(directions: DirectionVectors, name: str) -> float:
    """The strength that adds one mean residual norm, mean over the control layers."""
    config = directions.config
    layers = config.control_layers[name]
    norms = [config.residual_norms[config.layers.index(layer)] for layer in layers]
    lengths = [float(directions.at(name, layer).norm()) for layer in layers]
    return sum(norm / max(length, 1e-12) for norm, length in zip(norms, lengths, strict=True)) / len(layers)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
