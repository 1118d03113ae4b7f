"""All settings of Mind's Mirror as frozen dataclasses. Needs no torch; flags are generated from the fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hf_icon2.distillation.endpoint import Endpoint, endpoint_checks, free_settings
from hf_icon2.distillation.recipe import AnyTraining, training_checks
from hf_icon2.recipe import TOY
from hf_icon2.settings import PlainRecipe, check_settings, setting

FREE = free_settings("teacher")
"""Settings that may change in a run that has begun."""


@dataclass(frozen=True)
class Split:
    """Which questions are kept from training."""

    validation: float = setting(0.1, "share of the questions that checkpoints are chosen on")
    test: float = setting(
        0.0, "share that is measured on before and after, and neither collected nor trained on"
    )


@dataclass(frozen=True)
class Teacher(Endpoint):
    """The black box that reasons and evaluates its reasoning."""

    chains: int = setting(5, "chains of thought per question")
    evaluations: int = setting(5, "self-evaluations per chain")
    temperature: float = setting(0.7, "of the teacher's sampling")
    reply_tokens: int = setting(512, "longest reply; models that think need more")
    send_seed: bool = setting(True, "false for endpoints that refuse a sampling seed")


@dataclass(frozen=True)
class Training(AnyTraining):
    """How the student learns; see MindsMirrorConfig."""

    learning_rate: float = setting(5e-5, "peak learning rate")
    epochs: float = setting(5.0, "passes over the questions in the second stage, whatever the chains of each")
    evaluation_epochs: float = setting(10.0, "passes over the questions in the first stage")
    batch_size: int = setting(8, "rows per device and step")
    max_prompt_length: int = setting(1024, "longest prompt in tokens; longer rows are left out")
    max_target_length: int = setting(256, "longest label or rationale in tokens; longer rows are left out")
    alpha: float = setting(0.5, "weight of the label; the rest is the rationale's")
    self_evaluation: bool = setting(True, "false leaves out the first stage, the replay and its requests")
    shows: Literal["all", "rationale"] = setting(
        "all", "all: verdicts are on question, rationale and answer; rationale: on the rationale (the paper)"
    )
    replay: float = setting(0.1, "share of the second stage's rows that are verdicts again")
    labels: Literal["teacher", "gold"] = setting(
        "teacher", "teacher: each chain's own label; gold: the questions' answers"
    )
    keep_wrong: bool = setting(False, "with gold labels, keep chains that end in another answer (the paper)")
    measurements: int = setting(10, "times per stage that validation is measured; the best student is kept")
    label_prefix: str = setting("predict: ", "before what is to be labelled")
    rationale_prefix: str = setting("explain: ", "before what is to be reasoned about")


COLLECTED = (
    *FREE,
    "evaluation",
    *(f"training.{name}" for name in Training.__dataclass_fields__ if name != "self_evaluation"),
)
"""Settings that may change in a run that has collected and not trained yet; evaluations may not be there."""


@dataclass(frozen=True)
class Evaluation:
    """How the student is measured."""

    max_new_tokens: int = setting(32, "longest label")
    batch_size: int = setting(32, "prompts per batch")


@dataclass(frozen=True)
class MirrorRecipe(PlainRecipe):
    """Everything that determines a run of Mind's Mirror but its output folder."""

    student: str = setting(TOY, "model id or path; `toy` is the bundled student")
    questions: str | None = setting(None, "JSON(L) file or Hub dataset; the toy's sums by default")
    task: Literal["svamp", "gsm8k", "cqa", "anli", "text"] = setting(
        "gsm8k",
        "form of that dataset's rows: svamp, gsm8k, cqa, anli, or text for rows of question and answer",
    )
    subset: str | None = setting(None, "configuration of that Hub dataset, such as main of gsm8k")
    part: str = setting("train", "split of that Hub dataset, such as train_r1 of anli")
    number: int | None = setting(None, "questions to use; all by default, of the toy's sums 400")
    seed: int = setting(0, "of everything that is random")
    split: Split = field(default_factory=Split)
    teacher: Teacher = field(default_factory=Teacher)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        # What training would refuse is refused here: collecting costs money.
        split, teacher, training = self.split, self.teacher, self.training
        check_settings(
            {
                "number must be at least 2": self.number is None or self.number >= 2,
                "split.validation must be above 0": split.validation > 0,
                "split.test must be 0 or more": split.test >= 0,
                "split.validation and split.test must leave questions to train on": split.validation
                + split.test
                < 1,
                "teacher.chains must be at least 1": teacher.chains >= 1,
                "teacher.evaluations must be at least 1 where training.self_evaluation is true": (
                    teacher.evaluations >= 1 or not training.self_evaluation
                ),
                "teacher.temperature must be above 0, so that the replies to one prompt differ": 0
                < teacher.temperature
                < math.inf,
                "teacher.reply_tokens must be at least 1": teacher.reply_tokens >= 1,
                **endpoint_checks("teacher", teacher),
                **training_checks(training),
                "training.evaluation_epochs must be above 0 and finite": 0
                < training.evaluation_epochs
                < math.inf,
                "training.alpha must be 0 to 1": 0 <= training.alpha <= 1,
                "training.replay must be at least 0 and below 1": 0 <= training.replay < 1,
                "training.keep_wrong is for training.labels gold": training.labels == "gold"
                or not training.keep_wrong,
                "training.measurements must be at least 2: one is no choice": training.measurements >= 2,
                "training.max_prompt_length and training.max_target_length must be at least 1": min(
                    training.max_prompt_length, training.max_target_length
                )
                >= 1,
                "training.label_prefix and training.rationale_prefix must differ": training.label_prefix
                != training.rationale_prefix,
                "evaluation.max_new_tokens and evaluation.batch_size must be at least 1": min(
                    self.evaluation.max_new_tokens, self.evaluation.batch_size
                )
                >= 1,
                "questions are needed for a student that is not the toy": self.questions is not None
                or self.student == TOY,
                "teacher.endpoint or teacher.endpoint_model is needed for questions that are not the toy's": (
                    not teacher.is_ours or self.questions is None
                ),
            }
        )
