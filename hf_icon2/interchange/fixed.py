"""What every export writes: one steering mixed into one vector per block, strength and sign folded in."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.plans import RowSteering, check_steering

OPERATION = "add"
SITE = "output of the decoder block"
POSITIONS = "all"


def fixed_vectors(directions: DirectionVectors, steering: RowSteering) -> dict[int, Tensor]:
    """The vector that a steering adds to each block's output.

    Args:
        directions: What to steer with.
        steering: Strength per criterion; a file knows no rows.

    Returns:
        For each steered layer, (D,) float32 on the CPU, layers ascending.

    Raises:
        TypeError: If the steering lists rows, or a strength is not a number.
        ValueError: For an unknown criterion, or if nothing would be added.
    """
    if not isinstance(steering, Mapping):
        raise TypeError(
            f"an export holds one steering for all rows, like {{'honesty': 0.1}}; got {steering!r}"
        )
    mixed = directions.mix(check_steering(directions, steering))
    vectors = {layer: mixed[layer] for layer in sorted(mixed) if bool(mixed[layer].any())}
    if not vectors:
        raise ValueError(
            f"steering {dict(steering)} adds nothing; give at least one criterion a strength other than 0"
        )
    return vectors


def describe(directions: DirectionVectors, steering: RowSteering) -> dict[str, str]:
    """What a reader of the file must know to repeat it, as plain text: put into metadata and cards."""
    config = directions.config
    known = {"base_model": config.base_model, "base_model_revision": config.base_model_revision}
    return {
        "operation": OPERATION,
        "site": SITE,
        "positions": POSITIONS,
        "steering": json.dumps(dict(steering)),
        "directions_sha256": directions.sha256,
        **{key: value for key, value in known.items() if value},
    }
