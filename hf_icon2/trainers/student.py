"""What trainers of students share: an exact loss over the accumulation window, and figures as exact means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from hf_icon2.trainers.card import CardMixin


class StudentTrainer(CardMixin):
    """A trainer whose evaluation is its loss, and which logs figures of its own."""

    # `compute_loss` divides by the items of the whole accumulation window.
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]  # TRL's is None, of no type
    model: nn.Module

    prepare_held_out: Callable[[Dataset, str], Dataset]
    """Tokenizes rows to evaluate on, given with the name of their argument."""

    @abstractmethod
    def _figures(self, mode: str) -> dict[str, float]:
        """What was noted since the last log in `mode`, "train" or "eval"; forgets it."""

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """The loss of a batch; there is nothing else to predict."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, inputs)  # type: ignore[assignment]  # not asked for outputs
        return loss, None, None

    def evaluate(
        self,
        eval_dataset: Any = None,  # noqa: ANN401 - Trainer's is wider than what it documents
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As `Trainer.evaluate`, also on rows as they are given to the constructor."""
        if isinstance(eval_dataset, Dataset) and "prompt" in eval_dataset.column_names:
            eval_dataset = self.prepare_held_out(eval_dataset, "eval_dataset")
        self._figures("eval")  # what a `predict` noted, or an evaluation that was interrupted
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was noted since the last log."""
        prefix = next((name.removesuffix("runtime") for name in logs if name.endswith("_runtime")), "train_")
        if prefix == "train_":
            logs.update(self._figures("train"))
        else:  # eval_, with a name after it where there are several datasets
            logs.update({prefix + name: value for name, value in self._figures("eval").items()})
        super().log(logs, start_time)

    def _of_all_processes(self, values: Tensor) -> Tensor:
        """Values of the batches of all processes, without rows that only fill up the last one of an evaluation."""
        accelerator = self.accelerator
        gather = accelerator.gather if self.model.training else accelerator.gather_for_metrics
        gathered: Tensor = gather(values)
        return gathered


def prepared_eval(
    prepare: Callable[[Dataset, str], Dataset], dataset: Dataset | Mapping[str, Dataset] | None
) -> Dataset | dict[str, Dataset] | None:
    """Held-out rows prepared, one set or several by name."""
    if dataset is None:
        return None
    if isinstance(dataset, Mapping):
        return {name: prepare(part, f"eval_dataset[{name!r}]") for name, part in dataset.items()}
    return prepare(dataset, "eval_dataset")
