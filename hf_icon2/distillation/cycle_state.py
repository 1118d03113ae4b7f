"""The files of one cycle of CycleAlign. Each is written whole and never again, so that a run goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_icon2.distillation.demonstrations import DemonstrationPool
from hf_icon2.distillation.files import Row as Row
from hf_icon2.distillation.files import RunFiles


@dataclass(frozen=True)
class CycleState(RunFiles):
    """The folder of a cycle, in the order in which it fills.

    `candidates.jsonl`: per instruction K responses, with the student's mean log-probability and tokens of each.
    `rankings.jsonl`: per instruction the black box's scores, or the reason why there are none. It is written with
    what is known whenever the black box stops, and is whole when it has a row for every instruction.
    `dropped.jsonl`: of these the instructions without scores, with the reasons, for who looks for them.
    `demonstrations.json`: what the black box is shown in the next cycle.
    `model`: the student after the cycle.
    `figures.json`: the cycle in figures; the last one, so that it makes the cycle done.
    """

    @property
    def model(self) -> Path:
        """Folder of the student after the cycle."""
        return self.path / "model"

    @property
    def candidates(self) -> list[Row] | None:
        """Rows of `id`, `prompt`, `responses`, `mean_log_probs` and `tokens`; None where they are not drawn yet."""
        return self.rows("candidates")

    @property
    def rankings(self) -> list[Row] | None:
        """Rows of `id`, `scores`, `reason`; None where nothing is ranked yet."""
        return self.rows("rankings")

    @property
    def usage(self) -> Row | None:
        """What the black box has been asked for this cycle; None where it does not say."""
        return self.read("usage")

    @property
    def pool(self) -> DemonstrationPool | None:
        """Demonstrations after the cycle; None where they are not updated yet."""
        data = self.read("demonstrations")
        return None if data is None else DemonstrationPool.from_dict(data)

    @property
    def figures(self) -> Row | None:
        """The cycle in figures; None where it is not done."""
        return self.read("figures")
