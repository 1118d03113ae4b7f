"""All settings of CycleAlign as frozen dataclasses. Needs no torch; flags are generated from the fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hf_icon2.distillation.endpoint import Endpoint, endpoint_checks, free_settings
from hf_icon2.distillation.recipe import TrainingPass, training_checks
from hf_icon2.recipe import TOY
from hf_icon2.settings import PlainRecipe, check_settings, setting

FREE = ("cycles", "stop_early", *free_settings("ranker"))
"""Settings that may change in a run that has begun: how long it goes on, and how the black box is asked and paid."""


@dataclass(frozen=True)
class Sampling:
    """How the student answers."""

    samples: int = setting(5, "responses sampled per prompt")
    keep: int = setting(4, "of these the most different are ranked")
    temperatures: tuple[float, ...] = setting((1.0,), "of the samples in turn; several spread the responses")
    directions: str | None = setting(
        None, "folder or Hub id of directions; each steers some samples both ways to spread the responses"
    )
    strength: float = setting(0.2, "of that steering")
    top_p: float = setting(0.95, "of the sampling")
    max_new_tokens: int = setting(256, "longest response")
    batch_size: int = setting(16, "prompts per batch")


@dataclass(frozen=True)
class Ranker(Endpoint):
    """The black box that ranks."""

    kind: Literal["listwise", "pairwise"] = setting(
        "listwise", "listwise: all responses in one prompt, twice; pairwise: all pairs, in both orders"
    )
    read: Literal["text", "logprobs"] = setting(
        "text", "of pairs, the verdict: from the reply's text, or from the probabilities of its first token"
    )
    reply_tokens: int = setting(256, "longest reply; models that think need more")
    demonstrations: str | None = setting(
        None, "JSONL file of hand-written demonstrations: question, and answers, best first"
    )
    pool: int = setting(4, "most demonstrations that agreement adds")


@dataclass(frozen=True)
class Training(TrainingPass):
    """How the student learns from a cycle's rankings; see CycleAlignConfig."""

    loss_type: Literal["listmle", "pro", "rrhf"] = setting(
        "listmle", "listmle: the whole order; pro: weighed by gaps; rrhf: pairs in the wrong order"
    )
    pro_gaps: Literal["ranks", "scores", "unit"] = setting("ranks", "gaps of pro: ranks, scores or unit")
    student_temperature: float = setting(
        1.0, "divides the student's mean log-probabilities in pro and listmle"
    )
    sft_weight: float = setting(1.0, "weight of the best response's negative log-likelihood per token")


@dataclass(frozen=True)
class CycleRecipe(PlainRecipe):
    """Everything that determines a run of CycleAlign but its output folder."""

    student: str = setting(TOY, "model id or path; `toy` is the bundled student")
    prompts: str | None = setting(
        None, "JSONL file or Hub dataset; the toy's training instructions by default"
    )
    column: str = setting("prompt", "column of that dataset with the prompt")
    number: int | None = setting(None, "prompts to use; all by default")
    cycles: int = setting(5, "most cycles of sampling, ranking and training")
    update_demonstrations: bool = setting(True, "false keeps the first demonstrations: the control")
    stop_early: bool = setting(True, "end after a cycle in which Kendall's tau did not rise")
    seed: int = setting(0, "of everything that is random")
    sampling: Sampling = field(default_factory=Sampling)
    ranker: Ranker = field(default_factory=Ranker)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        # What training would refuse is refused here: sampling may take hours, ranking costs money.
        sampling, ranker, training = self.sampling, self.ranker, self.training
        check_settings(
            {
                "cycles must be at least 1": self.cycles >= 1,
                "number must be at least 1": self.number is None or self.number >= 1,
                "sampling.keep must be 2 to sampling.samples": 2 <= sampling.keep <= sampling.samples,
                "sampling.temperatures must be 1 to sampling.samples numbers of 0 or more": 1
                <= len(sampling.temperatures)
                <= sampling.samples
                and min(sampling.temperatures) >= 0,
                "ranker.pool must be 0 or more": ranker.pool >= 0,
                "ranker.reply_tokens must be at least 1": ranker.reply_tokens >= 1,
                **endpoint_checks("ranker", ranker),
                "training.student_temperature must be above 0 and finite": 0
                < training.student_temperature
                < math.inf,
                "training.student_temperature must be 1 for rrhf": training.loss_type != "rrhf"
                or training.student_temperature == 1,
                "training.sft_weight must be 0 or more": training.sft_weight >= 0,
                **training_checks(training),
                "prompts are needed for a student that is not the toy": self.prompts is not None
                or self.student == TOY,
                "ranker.endpoint or ranker.endpoint_model is needed for a student that is not the toy": (
                    not ranker.is_ours or self.student == TOY
                ),
                "ranker.kind must be listwise for the toy's black box, which compares no pairs": (
                    not ranker.is_ours or ranker.kind == "listwise"
                ),
            }
        )
