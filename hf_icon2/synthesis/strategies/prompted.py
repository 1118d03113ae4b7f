"""Opposite system prompts, no steering: direct prompting (RLCD, arXiv 2307.12950; Icon²'s ablation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_icon2.criteria import Criterion
from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Writer, count_tokens


@dataclass(frozen=True)
class Prompted:
    """The chosen answer under the criterion's positive system prompt, the rejected one under its negative.

    The pair's prompt stays without either, so that training moves the behaviour into the model. Each answer has noise
    of its own, as in RLCD: the two prompts differ, so the same noise would not pair their tokens anyway.

    Args:
        criteria: By name.
    """

    criteria: Mapping[str, Criterion]
    texts_per_row: int = 2

    def draft(self, writer: Writer, rows: Sequence[PairRow]) -> list[Draft]:
        """One draft per row; every row has a criterion among `criteria`."""
        sides = [self.criteria[str(row.criterion)] for row in rows]
        answers = writer.variants(
            [row.prompt for row in rows] * 2,
            [[*(row.seed for row in rows), *(row.rejected_seed for row in rows)]],
            systems=[*(side.positive for side in sides), *(side.negative for side in sides)],
        )[0]
        pairs = zip(answers[: len(rows)], answers[len(rows) :], strict=True)
        return [Draft(*both, count_tokens(both)) for both in pairs]
