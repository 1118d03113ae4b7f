"""Preference-aligned distillation (PAD): the student learns in which order the teacher prefers its own responses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from hf_icon2.trainers.ranked import RankedTrainer
from hf_icon2.trainers.ranked_config import RankedConfig
from hf_icon2.trainers.rankings import MOST_RESPONSES, list_mle, preference_divergence

PAD_PAPER = {
    "title": "Capturing Nuanced Preferences: Preference-Aligned Distillation for Small Language Models",
    "id": "2502.14272",  # arXiv
    "citation": """\
@inproceedings{gu2025pad,
    title     = {{Capturing Nuanced Preferences: Preference-Aligned Distillation for Small Language Models}},
    author    = {Yanggan Gu and Junzhuo Li and Sirui Huang and Xin Zou and Zhenghua Li and Xuming Hu},
    year      = 2025,
    booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
    eprint    = {2502.14272},
    archivePrefix = {arXiv},
}""",
}


@dataclass
class PADConfig(RankedConfig):
    """Settings of `PADTrainer`; see `RankedConfig` for the others.

    The authors use one temperature of 0.1 (beta 10) for both sides. Scores near log 0 then make the teacher's
    distribution a single ordering, so the two are separate here.

    Args:
        loss_type: "ppd" matches the distribution over all orderings (Jensen-Shannon divergence), "vpd" the
            teacher's single ordering (ListMLE), in which equal scores are no order.
        student_temperature: Divides the student's mean log-probabilities; above 0.
        teacher_temperature: Divides the teacher's scores; above 0. Of no effect with "vpd".
    """

    loss_type: str = field(
        default="ppd", metadata={"help": "ppd: distribution over orderings; vpd: the teacher's ordering."}
    )
    student_temperature: float = field(
        default=0.1, metadata={"help": "Divides the student's mean log-probabilities; above 0."}
    )
    teacher_temperature: float = field(
        default=0.1, metadata={"help": "Divides the teacher's scores; above 0."}
    )

    def __post_init__(self) -> None:
        if self.loss_type not in ("ppd", "vpd"):
            raise ValueError(f"loss_type={self.loss_type!r}; allowed: 'ppd' or 'vpd'")
        if not all(0 < value < math.inf for value in (self.student_temperature, self.teacher_temperature)):
            raise ValueError(
                f"student_temperature={self.student_temperature}, teacher_temperature={self.teacher_temperature}; "
                "both must be above 0 and finite"
            )
        if self.group_size is not None and not 2 <= self.group_size <= MOST_RESPONSES:
            raise ValueError(f"group_size={self.group_size}; allowed: 2 to {MOST_RESPONSES}, or None for all")
        super().__post_init__()


class PADTrainer(RankedTrainer):
    """Distils the teacher's preferences over the student's own responses (PAD, arXiv 2502.14272).

    Columns `prompt`, `responses` and `scores`, from `distillation.sample_candidates` and `score_candidates`, or
    `teacher_model=` in the place of the scores. See `RankedTrainer` for the arguments.
    """

    _tag_names = ["trl", "pad", "distillation"]
    _name = "preference-aligned distillation (PAD)"
    _paper = PAD_PAPER
    args: PADConfig

    @classmethod
    def _default_config(cls) -> PADConfig:
        return PADConfig("pad")

    def _method_settings(self) -> dict[str, object]:
        names = ("loss_type", "student_temperature", "teacher_temperature", "group_size")
        return {name.replace("_", " "): getattr(self.args, name) for name in names}

    def ranking_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """PPD or VPD per group; see `rankings`."""
        if self.args.loss_type == "vpd":
            return list_mle(student, teacher, temperature=self.args.student_temperature)
        return preference_divergence(
            student,
            teacher,
            student_temperature=self.args.student_temperature,
            teacher_temperature=self.args.teacher_temperature,
        )
