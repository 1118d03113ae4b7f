"""All settings of a distillation as frozen dataclasses. Needs no torch; flags are generated from the fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hf_icon2.recipe import TOY
from hf_icon2.settings import PlainRecipe, check_settings, setting

ROWS = "scored.jsonl"
"""In the folder of a round: responses and their scores."""


@dataclass(frozen=True)
class AnyTraining:
    """What the training of every method is told."""

    learning_rate: float = setting(2e-5, "peak learning rate")
    epochs: float = setting(1.0, "passes over the prompts of a round or cycle")
    batch_size: int = setting(8, "prompts per device and step")
    accumulation: int = setting(1, "batches per optimiser step")
    lora_rank: int = setting(0, "rank of a LoRA adapter; 0 trains all weights")


@dataclass(frozen=True)
class TrainingPass(AnyTraining):
    """What training on ranked responses is told."""

    max_length: int = setting(2048, "longest prompt plus response in tokens; longer rows are left out")


def training_checks(training: AnyTraining) -> dict[str, bool]:
    """Sentences about the training's settings, and whether they hold."""
    return {
        "training.learning_rate and training.epochs must be above 0": training.learning_rate > 0
        and training.epochs > 0,
        "training.batch_size and training.accumulation must be at least 1": min(
            training.batch_size, training.accumulation
        )
        >= 1,
        "training.lora_rank must be 0 or more": training.lora_rank >= 0,
    }


@dataclass(frozen=True)
class Sampling:
    """How the student answers."""

    samples: int = setting(5, "responses sampled per prompt")
    keep: int = setting(4, "of these the most different are kept")
    temperature: float = setting(1.0, "of the sampling")
    top_p: float = setting(0.95, "of the sampling")
    max_new_tokens: int = setting(256, "longest response")
    batch_size: int = setting(16, "prompts per batch")


@dataclass(frozen=True)
class Scoring:
    """What the teacher's preference is made of."""

    alpha: float = setting(0.5, "weight of the likelihood; the rest is the selection probability")
    system: str | None = setting(None, "system prompt that the teacher reads the conversation under")
    endpoint: str | None = setting(
        None, "address of an OpenAI-compatible endpoint that selects, in place of the teacher"
    )
    endpoint_model: str | None = setting(None, "name of the model at the endpoint")


@dataclass(frozen=True)
class Training(TrainingPass):
    """How the student learns; see PADConfig."""

    learning_rate: float = setting(8e-7, "peak learning rate")
    loss_type: Literal["ppd", "vpd"] = setting("ppd", "ppd: distribution over orderings; vpd: one ordering")
    student_temperature: float = setting(0.1, "divides the student's mean log-probabilities")
    teacher_temperature: float = setting(0.1, "divides the teacher's scores")
    group_size: int | None = setting(None, "responses compared at a time, if fewer than are kept")


@dataclass(frozen=True)
class DistillationRecipe(PlainRecipe):
    """Everything that determines a distillation but its output folder."""

    student: str = setting(TOY, "model id or path; `toy` is the bundled student")
    teacher: str | None = setting(
        None, "model id or path; `toy` is the bundled assistant; not needed where an endpoint alone scores"
    )
    prompts: str | None = setting(
        None, "JSONL file or Hub dataset; the toy's training instructions by default"
    )
    column: str = setting("prompt", "column of that dataset with the prompt")
    number: int | None = setting(None, "prompts to use; all by default")
    rounds: int = setting(1, "times that the updated student answers again")
    seed: int = setting(0, "of everything that is random")
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Scoring = field(default_factory=Scoring)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        # What training would refuse is refused here: sampling and scoring may take hours.
        training, kept = self.training, self.sampling.keep
        compared = kept if training.group_size is None else training.group_size
        checks = {
            "rounds must be at least 1": self.rounds >= 1,
            "sampling.keep must be 2 to sampling.samples": 2 <= self.sampling.keep <= self.sampling.samples,
            "scoring.alpha must be 0 to 1": 0 <= self.scoring.alpha <= 1,
            "number must be at least 1": self.number is None or self.number >= 1,
            f"training.group_size must be 2 to sampling.keep={kept}": 2 <= compared <= kept,
            "training.group_size must be 2 to 8 where sampling.keep is above 8": compared <= 8,
            "training.student_temperature and training.teacher_temperature must be above 0 and finite": all(
                0 < value < math.inf for value in (training.student_temperature, training.teacher_temperature)
            ),
            **training_checks(training),
            "prompts are needed for a student that is not the toy": self.prompts is not None
            or self.student == TOY,
            "a teacher is needed unless scoring.alpha is 0 and scoring.endpoint selects": self.teacher
            is not None
            or (self.scoring.alpha == 0 and self.scoring.endpoint is not None),
        }
        check_settings(checks)
