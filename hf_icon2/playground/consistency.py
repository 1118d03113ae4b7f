"""Which criterion a typed instruction is about, beside the instructions of a reference set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hf_icon2.playground.subject import Subject
from hf_icon2.synthesis.consistency import score_consistency

_REFERENCE = 256


@dataclass(frozen=True)
class Consistency:
    """Scores of one instruction.

    Args:
        scores: Per criterion: standard deviations above the mean of the reference set, or cosines without one.
        reference: Size of the reference set, 0 without one.
    """

    scores: Mapping[str, float]
    reference: int

    @property
    def full(self) -> float:
        """The score of a bar of full length."""
        return 3.0 if self.reference else max(0.05, *map(abs, self.scores.values()))

    @property
    def meaning(self) -> str:
        """The scores in a sentence."""
        best = max(self.scores, key=lambda name: self.scores[name])
        if not self.reference:
            return (
                "Cosine between the model's state at the end of the instruction and each direction, mean over layers. "
                f"Highest for {best}. Criteria have different offsets, so compare instructions, not criteria."
            )
        return (
            "How far the model's state at the end of the instruction lies along each direction, in standard "
            f"deviations from the mean of {self.reference} other instructions. Highest for {best}: to that criterion "
            "this instruction would be routed when preference pairs are made."
        )


class ConsistencyMeter:
    """Scores instructions; measures the reference set once.

    Args:
        subject: The model, its directions and its instructions.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        texts = subject.instructions[:: max(1, len(subject.instructions) // _REFERENCE)][:_REFERENCE]
        self.reference = len(texts) if len(texts) > 1 else 0
        if self.reference:
            values = np.array(self._scores(list(texts), "dot"))  # (N, C)
            self.mean, self.deviation = values.mean(0), values.std(0).clip(min=1e-12)

    def __call__(self, instruction: str) -> Consistency:
        """Scores of one instruction."""
        names = self.subject.directions.names
        if not self.reference:
            (row,) = self._scores([instruction], "cosine")
        else:
            (raw,) = self._scores([instruction], "dot")
            row = ((np.array(raw) - self.mean) / self.deviation).tolist()
        return Consistency(dict(zip(names, row, strict=True)), self.reference)

    def _scores(self, texts: list[str], score: str) -> list[list[float]]:
        subject = self.subject
        scored = score_consistency(
            subject.model,
            subject.tokenizer,
            subject.directions,
            texts,
            score=score,  # type: ignore[arg-type]
            show_progress=False,
        )
        return [[row[name] for name in subject.directions.names] for row in scored["consistency"]]
