"""Whether the answers get better during training: the policy's win rate against the answers of the model before it.

Beside it stands the train reward accuracy, because the two together show what neither shows alone: accuracy that rises
while the win rate does not is reward hacking. `win_rate_points` holds what is measured and what it means.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_icon2.blocks.reading import evaluating
from hf_icon2.evaluation.answering import answer_prompts
from hf_icon2.evaluation.win_rate import win_rate
from hf_icon2.judges.judging import Judge
from hf_icon2.prompts import Instruction, refuse_one_text
from hf_icon2.steering.decoding import Sampling
from hf_icon2.storage import write_atomic
from hf_icon2.trainers.win_rate_points import WinRatePoint, hacking_signs, point_of, points_of

logger = logging.getLogger(__name__)

REFERENCE_FILE = "win_rate_reference.json"
"""In the output folder: the answers that the policy is compared with, for a training that is taken up."""


class WinRateCallback(TrainerCallback):
    """Reports how often the policy's answers beat the reference's, at every evaluation or every few steps.

    Works with every trainer of causal language models (TRL's and ours). Sampling noise is a function of the seed and
    the prompt, the same for both sides: an untrained policy gives the reference's answers, its win rate is 0.5, and the
    training itself goes as without the callback, bit for bit.

    Add it before training, `trainer.add_callback(WinRateCallback(judge, prompts, trainer))`. Figures go where the
    trainer logs (`eval_win_rate`, `eval_win_rate_low`, ...), and at evaluations among its metrics, so that
    `metric_for_best_model="win_rate"` with `greater_is_better=True` works, also for early stopping.

    Args:
        judge: Compares answers: a `RewardJudge`, a `RewardModel`, a `PairwiseJudge`, ...
        prompts: Held-out texts, or conversations that end with the user's turn.
        trainer: Whose policy is judged.
        tokenizer: None takes the trainer's.
        reference: Answers to beat, one per prompt; None takes those of the model as it is when training begins.
        every: Steps between two points; None takes the trainer's evaluations, and needs `eval_strategy`.
        samples: Answers per prompt; intervals resample prompts.
        sampling: How tokens are chosen; None samples up to 256 tokens at temperature 0.7.
        seed: Of the answers.
        batch_size: Prompts decoded at a time.

    Attributes:
        history: The points so far, the first before training; see `figures`.

    Raises:
        ValueError: If there are no prompts, or numbers do not fit.
    """

    def __init__(
        self,
        judge: Judge,
        prompts: Sequence[Instruction],
        trainer: Trainer,
        *,
        tokenizer: Any = None,  # noqa: ANN401
        reference: Sequence[str] | None = None,
        every: int | None = None,
        samples: int = 1,
        sampling: Sampling | None = None,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        refuse_one_text(prompts)
        _check(prompts, reference, every, samples)
        self.judge = judge
        self.prompts = list(prompts)
        self.trainer = trainer
        self.tokenizer: Any = tokenizer or trainer.processing_class
        self.every = every
        self.samples = samples
        self.sampling = sampling or Sampling(max_new_tokens=256, temperature=0.7)
        self.seed = seed
        self.batch_size = batch_size
        self.history: list[WinRatePoint] = []
        self._given = None if reference is None else [text for text in reference for _ in range(samples)]
        self._reference: list[str] | None = None
        self._warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gets the reference's answers, and what an interrupted training has reported already."""
        if self.every is None and args.eval_strategy == "no":
            raise ValueError(
                "the win rate is reported at evaluations, and eval_strategy is 'no'; set it, or every=... steps"
            )
        if self.every is not None and self.every > state.max_steps:
            raise ValueError(
                f"every={self.every} is more than the {state.max_steps} steps of the training, so that none of its win "
                "rates would be reported; take fewer"
            )
        callbacks = self.trainer.callback_handler.callbacks
        if args is not self.trainer.args or self not in callbacks:
            raise ValueError(
                "this callback was made for another trainer, whose policy it judges; make one with this trainer"
            )
        callbacks.remove(self)
        callbacks.insert(0, self)  # early stopping, for one, must find the win rate among the metrics
        self.history = points_of(state.log_history)
        self._warned = set()
        self._reference = self._given or self._reference_answers(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports where training starts from, and after a step that is due: its own log is written by then."""
        if not self.history or self._is_due(state):
            self._report(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports after the last step, which no other follows."""
        if self._is_due(state):
            self._report(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports at an evaluation of the training, once, and puts the figures among its metrics."""
        if self._reference is None:
            return
        is_new = not self.history or self.history[-1].step != state.global_step
        if is_new and (self.every is None or not self.history):  # eval_on_start comes before the first step
            self._report(state)
        if self.history[-1].step == state.global_step:
            kwargs["metrics"].update(self.history[-1].to_logs())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says what makes the last win rate doubtful; later evaluations are none of the training."""
        self._reference = None
        for text in self.history[-1].warnings if state.is_world_process_zero and self.history else ():
            logger.warning("win rate of step %d: %s", self.history[-1].step, text)

    def figures(self) -> list[dict[str, Any]]:
        """The curve as plain data, one row per point: win rate, train reward accuracy, lengths, doubts."""
        return [point.to_dict() for point in self.history]

    def summary(self) -> str:
        """What was seen, in a sentence or two."""
        if not self.history:
            return "No win rate was measured."
        point = self.history[-1]
        return " ".join(
            [
                f"After {point.step} steps the policy wins {point.win_rate:.2f} [{point.low:.2f}, {point.high:.2f}] "
                "against the reference.",
                *hacking_signs(self.history),
                *(f"{text[:1].upper()}{text[1:]}." for text in point.warnings),
            ]
        )

    def _is_due(self, state: TrainerState) -> bool:
        step = state.global_step
        return self.every is not None and step % self.every == 0 and self.history[-1].step != step

    def _report(self, state: TrainerState) -> None:
        point = self._point(state)
        self.history.append(point)
        control = self.trainer.control
        asked = control.should_log
        # Not the trainer's own `log`: TRL's would add the averages of an unfinished interval, and forget them.
        Trainer.log(self.trainer, point.to_logs())
        control.should_log = asked
        for text in hacking_signs(self.history):
            if text not in self._warned and state.is_world_process_zero:
                self._warned.add(text)
                logger.warning("step %d: %s", point.step, text)

    def _point(self, state: TrainerState) -> WinRatePoint:
        """All processes answer, alike: a model may be spread over them. One judges, and tells the others."""
        answers, found = self._answers(), [None]
        if state.is_world_process_zero:
            reference = self._reference or []
            prompts = [prompt for prompt in self.prompts for _ in range(self.samples)]
            compared = self.judge.compare(prompts, answers, reference)
            rate = win_rate(compared, answers, reference, prompts=prompts, seed=self.seed)
            found = [point_of(rate, state.global_step, state.log_history)]  # type: ignore[list-item]
        return broadcast_object_list(found)[0]  # type: ignore[no-any-return]

    def _answers(self) -> list[str]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with evaluating(model):
            return answer_prompts(
                model,
                self.tokenizer,
                self.prompts,
                sampling=self.sampling,
                seed=self.seed,
                samples=self.samples,
                batch_size=self.batch_size,
            )

    def _reference_answers(self, state: TrainerState) -> list[str]:
        """The model's own, before training; of a training that is taken up, from its file."""
        path = Path(str(self.trainer.args.output_dir)) / REFERENCE_FILE
        made_with = {
            "prompts": self.prompts,
            "samples": self.samples,
            "seed": self.seed,
            "sampling": self.sampling.__dict__,
        }
        settings = json.loads(json.dumps(made_with))  # as they will be read: tuples become lists
        if state.global_step:
            return _read_reference(path, settings)
        answers = self._answers()
        if state.is_world_process_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({**settings, "answers": answers}, ensure_ascii=False, indent=1))
        return answers


def _read_reference(path: Path, settings: dict[str, Any]) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"training goes on from a checkpoint, but {path} with the reference's answers is missing; pass "
            "reference=..., one answer per prompt"
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    if other := [name for name, value in settings.items() if record[name] != value]:
        raise ValueError(
            f"{path} holds answers made with other {', '.join(other)}; go on with the same, or pass reference=..."
        )
    return list(record["answers"])


def _check(
    prompts: Sequence[Instruction], reference: Sequence[str] | None, every: int | None, samples: int
) -> None:
    if not prompts:
        raise ValueError("there are no prompts to answer; give some that are not trained on")
    if isinstance(reference, str) or (reference is not None and len(reference) != len(prompts)):
        raise ValueError(
            f"reference is not one answer to each of {len(prompts)} prompts; give a list of texts"
        )
    for name, value in (("every", every), ("samples", samples)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is too small; allowed: 1 or more")
