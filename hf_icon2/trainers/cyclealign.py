"""CycleAlign's training: the student learns a black box's ranking of its own responses, and to say the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from hf_icon2.trainers.ranked import RankedTrainer
from hf_icon2.trainers.ranked_config import RankedConfig
from hf_icon2.trainers.rankings import PRO_GAPS, best_nll, list_mle, pro, rrhf

_TITLE = (
    "CycleAlign: Iterative Distillation from Black-box LLM to White-box Models for Better Human Alignment"
)
CYCLEALIGN_PAPER = {
    "title": _TITLE,
    "id": "2310.16271",  # arXiv
    "citation": f"""\
@inproceedings{{hong2024cyclealign,
    title     = {{{{{_TITLE}}}}},
    author    = {{Jixiang Hong and Quan Tu and Changyu Chen and Xing Gao and Ji Zhang and Rui Yan}},
    year      = 2024,
    booktitle = {{Findings of the Association for Computational Linguistics: ACL 2024}},
    eprint    = {{2310.16271}},
    archivePrefix = {{arXiv}},
    url       = {{https://aclanthology.org/2024.findings-acl.869}},
}}""",
}


@dataclass
class CycleAlignConfig(RankedConfig):
    """Settings of `CycleAlignTrainer`; see `RankedConfig` for the others.

    The paper trains with RRHF and with PRO. ListMLE, which is PRO as it is written for rankings without rewards, the
    weights and the learning rate are our choices. ListMLE is the default because a black box errs: where it orders
    two responses wrongly with probability q, ListMLE comes to rest with temperature x ln((1 - q) / q) nats per token
    between them, and RRHF, which only hears of pairs that are ordered otherwise, with none, for every q above 0.

    Args:
        learning_rate: 2e-5 by default, that of RRHF's code for 7B models; small models want a far higher one.
        loss_type: "listmle" is the likelihood of the whole order, "pro" weighs it by the gaps between responses,
            "rrhf" only corrects pairs in the wrong order.
        pro_gaps: Gaps of "pro": "ranks" counts the ranks between two responses, "scores" takes the teacher's
            scores, for rewards on a scale, and "unit" is "listmle".
        student_temperature: Divides the student's mean log-probabilities in "pro" and "listmle"; above 0.
        sft_weight: Weight of the negative log-likelihood per token of each group's best response; 0 or more.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate for AdamW."})
    loss_type: str = field(
        default="listmle", metadata={"help": "listmle: the whole order; pro: by gaps; rrhf: wrong pairs."}
    )
    pro_gaps: str = field(default="ranks", metadata={"help": "Gaps of pro: ranks, scores or unit."})
    student_temperature: float = field(
        default=1.0, metadata={"help": "Divides the student's mean log-probabilities in pro and listmle."}
    )
    sft_weight: float = field(
        default=1.0, metadata={"help": "Weight of the best response's negative log-likelihood per token."}
    )

    def __post_init__(self) -> None:
        if self.loss_type not in ("rrhf", "pro", "listmle"):
            raise ValueError(f"loss_type={self.loss_type!r}; allowed: 'rrhf', 'pro' or 'listmle'")
        if self.pro_gaps not in PRO_GAPS:
            raise ValueError(f"pro_gaps={self.pro_gaps!r}; allowed: {', '.join(map(repr, PRO_GAPS))}")
        if not 0 < self.student_temperature < math.inf:
            raise ValueError(f"student_temperature={self.student_temperature}; it must be above 0 and finite")
        if self.loss_type == "rrhf" and self.student_temperature != 1:
            raise ValueError(
                f"student_temperature={self.student_temperature} would only scale RRHF's loss; leave it at 1 and set "
                "sft_weight, or choose loss_type='pro' or 'listmle'"
            )
        if not 0 <= self.sft_weight < math.inf:
            raise ValueError(f"sft_weight={self.sft_weight}; allowed: 0 or more, and finite")
        if self.group_size is not None and self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}; allowed: 2 or more, or None for all")
        super().__post_init__()


class CycleAlignTrainer(RankedTrainer):
    """Trains on a black box's rankings of the student's own responses (CycleAlign, arXiv 2310.16271).

    Columns `prompt`, `responses` and `scores`, higher is better, of which equal ones are not told apart. See
    `RankedTrainer` for the arguments. The loss of a group is RRHF, PRO or ListMLE plus `sft_weight` times the best
    response's negative log-likelihood, a mean over its own tokens, so that length and padding weigh nothing. RRHF's
    code averages it over the padded row; PRO's sums it over tokens, with a weight of 0.05 (n - 1)^2.
    Besides the figures of all ranked trainers it logs `ranking_loss` and `sft_loss`, each without its weight.
    """

    _tag_names = ["trl", "cyclealign", "distillation"]
    _name = "iterative distillation from rankings (CycleAlign)"
    _paper = CYCLEALIGN_PAPER
    args: CycleAlignConfig

    @classmethod
    def _default_config(cls) -> CycleAlignConfig:
        return CycleAlignConfig("cyclealign")

    def _method_settings(self) -> dict[str, object]:
        args = self.args
        return {
            "loss": f"{args.loss_type} + {args.sft_weight:g} SFT on the best",
            **({"gaps": args.pro_gaps} if args.loss_type == "pro" else {}),
            **({"student temperature": args.student_temperature} if args.loss_type != "rrhf" else {}),
            "group size": args.group_size or "all responses",
        }

    def ranking_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Ranking and SFT loss per group; see `rankings`."""
        return self._order_loss(student, teacher) + self.args.sft_weight * best_nll(student, teacher)

    def figures(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """As in `RankedTrainer`, and both terms of the loss."""
        terms = {
            "ranking_loss": self._order_loss(student, teacher),
            "sft_loss": best_nll(student, teacher),
        }
        return super().figures(student, teacher) | terms

    def _order_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        args = self.args
        if args.loss_type == "rrhf":
            return rrhf(student, teacher)
        if args.loss_type == "pro":
            return pro(student, teacher, gaps=args.pro_gaps, temperature=args.student_temperature)
        return list_mle(student, teacher, temperature=args.student_temperature)
