"""Both answers from the model itself, steered towards the row's criterion and away from it (Icon², Eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.plans import RowSteering
from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Writer, count_tokens

Noise = Literal["shared", "independent"]

PAPER_STRENGTHS = StrengthRange(positive=0.1, negative=-0.05)
"""Icon², section 3.3: used where nothing was tuned."""


@dataclass(frozen=True)
class Steered:
    """Two answers from one prefill, under + and - steering.

    Args:
        directions: Measured on the writer's model.
        strengths: Per criterion; those recommended by the directions, else the paper's.
        noise: "shared": both sides have the same sampling noise (ours); "independent": each has its own (the paper's).
    """

    directions: DirectionVectors
    strengths: Mapping[str, StrengthRange]
    noise: Noise
    texts_per_row: int = 2

    def draft(self, writer: Writer, rows: Sequence[PairRow]) -> list[Draft]:
        """One draft per row; every row has a criterion of the directions."""
        names = [str(row.criterion) for row in rows]
        ranges = {name: self._range(name) for name in set(names)}
        steerings: list[list[RowSteering | None]] = [
            [{name: ranges[name][side]} for name in names] for side in (0, 1)
        ]
        chosen = [row.seed for row in rows]
        rejected = chosen if self.noise == "shared" else [row.rejected_seed for row in rows]
        sides = writer.variants(
            [row.prompt for row in rows],
            [chosen, rejected],
            steerings=steerings,
            directions=self.directions,
        )
        return [
            Draft(first, second, count_tokens([first, second]), columns=self._columns(*ranges[name]))
            for name, first, second in zip(names, *sides, strict=True)
        ]

    def _columns(self, chosen: float, rejected: float) -> dict[str, object]:
        return {
            "strength_chosen": chosen,
            "strength_rejected": rejected,
            "directions_sha256": self.directions.sha256,
            "noise": self.noise,
        }

    def _range(self, name: str) -> tuple[float, float]:
        """Strength of the chosen and of the rejected side."""
        for source in (self.strengths, self.directions.config.strengths):
            if name in source and source[name].positive is not None and source[name].negative is not None:
                return float(source[name].positive), float(source[name].negative)  # type: ignore[arg-type]
        return float(PAPER_STRENGTHS.positive), float(PAPER_STRENGTHS.negative)  # type: ignore[arg-type]
