"""What trainers on ranked responses share: rows in, mean log-probabilities per group, losses averaged exactly."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from trl.trainer.utils import disable_dropout_in_model

from hf_icon2.cards import distilled_model_card
from hf_icon2.trainers.adapters import adapted
from hf_icon2.trainers.fused_head import fuse_head, mean_log_probs
from hf_icon2.trainers.ranked_config import RankedConfig
from hf_icon2.trainers.ranked_rows import FreshGroups, RankedCollator, prepare_ranked, split_into_groups
from hf_icon2.trainers.rankings import kendall_tau
from hf_icon2.trainers.sources import loaded, name_of, pad_id, teacher_tokenizer, tokenizer_of
from hf_icon2.trainers.student import StudentTrainer, prepared_eval

if TYPE_CHECKING:
    from peft import PeftConfig


class RankedTrainer(StudentTrainer):
    """Trains on prompts with several responses and a score for each; a subclass says with which loss.

    Args:
        model: Student, or id or path of one.
        teacher_model: Scores the responses by their mean log-probability where the rows have no `scores`; a
            model, or id or path of one. It may have another tokenizer.
        args: Settings.
        train_dataset: Rows of `prompt`, `responses` and `scores`.
        eval_dataset: Held-out rows.
        processing_class: The student's tokenizer; loaded from the model's path by default.
        teacher_processing_class: The teacher's; loaded from its path, or the student's for a model in memory.
        peft_config: Adapter to train instead of the whole model.
        callbacks: Further callbacks.
        **kwargs: The remaining arguments of `transformers.Trainer`.
    """

    args: RankedConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        teacher_model: str | PreTrainedModel | None = None,
        args: RankedConfig | None = None,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        args = self._default_config() if args is None else args
        set_seed(args.seed)  # before an adapter draws its weights
        tokenizer = processing_class or tokenizer_of(model, "model", "processing_class")
        student = loaded(model, args.model_init_kwargs)
        theirs = None
        if teacher_model is not None:
            theirs = teacher_processing_class or teacher_tokenizer(teacher_model, tokenizer)
        prepare = self._preparation(args, tokenizer, theirs)
        train = prepare(train_dataset, "train_dataset")

        def prepare_held_out(dataset: Dataset, name: str) -> Dataset:
            rows = prepare(dataset, name)
            return rows if args.group_size is None else split_into_groups(rows, args.group_size)

        self.prepare_held_out = prepare_held_out
        fuse_head(student)
        collator = RankedCollator(
            pad_id(tokenizer),
            group_size=args.group_size,
            seed=args.seed,
            teacher_pad_token_id=None if theirs is None else pad_id(theirs),
        )
        super().__init__(  # type: ignore[no-untyped-call]
            model=adapted(student, peft_config, args),
            args=args,
            train_dataset=train,
            eval_dataset=prepared_eval(prepare_held_out, eval_dataset),
            processing_class=tokenizer,
            data_collator=collator,
            callbacks=[FreshGroups(collator), *callbacks],
            **kwargs,
        )
        disable_dropout_in_model(self.model)
        self.teacher_model = self._prepared_teacher(teacher_model, args)
        self._metrics: dict[str, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        self.model.add_model_tags(self._tag_names)  # type: ignore[operator]

    @abstractmethod
    def ranking_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Loss of each group of n responses.

        Args:
            student: Mean log-probabilities, (G, n).
            teacher: Scores, (G, n).

        Returns:
            (G,).
        """

    def figures(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """What is logged of each group, (G,) each by name; arguments as in `ranking_loss`."""
        favourite = student.argmax(-1, keepdim=True)
        return {
            "kendall_tau": kendall_tau(student, teacher),
            "best_agrees": (teacher.gather(-1, favourite)[:, 0] == teacher.amax(-1)).double(),
            "mean_logp": student.mean(-1),
        }

    @classmethod
    @abstractmethod
    def _default_config(cls) -> RankedConfig: ...

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - as in Trainer
        """Mean of `ranking_loss` over the groups of all micro-batches of a step, whatever their sizes."""
        size = int(inputs["group_size"])
        student = mean_log_probs(model, inputs).view(-1, size)
        teacher = self._teacher_scores(inputs).view(-1, size)
        losses = self.ranking_loss(student, teacher)
        self._note(student.detach(), teacher, losses.detach())
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        return (loss, {}) if return_outputs else loss

    def _figures(self, mode: str) -> dict[str, float]:
        noted, self._metrics[mode] = self._metrics[mode], defaultdict(list)
        return {name: sum(values) / len(values) for name, values in noted.items()}

    def _card(self, **shared: Any) -> str:
        rows = cast(Dataset, self.train_dataset)
        return distilled_model_card(
            **shared,
            method=self._name,
            paper=self._paper,
            lesson="it learned how a teacher ranks several of its own responses to each prompt",
            seen=f"{len(rows)} prompts with {len(rows[0]['responses_ids'])} responses each",
            teacher=self.teacher_model and name_of(self.teacher_model),
            settings={**self._method_settings(), **self._training_settings()},
        )

    @abstractmethod
    def _method_settings(self) -> dict[str, object]: ...

    def _preparation(
        self, args: RankedConfig, tokenizer: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase | None
    ) -> Callable[[Dataset, str], Dataset]:
        def prepare(dataset: Dataset, name: str) -> Dataset:
            return prepare_ranked(
                dataset,
                name,
                tokenizer,
                max_length=args.max_length,
                scored=theirs is None,
                teacher_tokenizer=theirs,
                group_size=args.group_size,
            )

        return prepare

    def _prepared_teacher(
        self, teacher: str | PreTrainedModel | None, args: RankedConfig
    ) -> nn.Module | None:
        if teacher is None:
            return None
        model = loaded(teacher, args.model_init_kwargs)
        fuse_head(model)
        prepared: nn.Module = self.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared.eval()

    def _teacher_scores(self, inputs: dict[str, Any]) -> Tensor:
        if self.teacher_model is None:
            scores: Tensor = inputs["scores"]
            return scores
        with torch.no_grad():
            found = mean_log_probs(self.teacher_model, inputs, prefix="teacher_")
        if not found.isfinite().all():
            raise ValueError("a score of the teacher is not finite; load it in float32 or bfloat16")
        return found

    def _note(self, student: Tensor, teacher: Tensor, losses: Tensor) -> None:
        figures, mode = self.figures(student, teacher), "train" if self.model.training else "eval"
        if mode == "eval":
            figures["loss"] = losses  # Trainer's mean counts rows twice where processes have uneven shares
        for name, values in figures.items():
            self._metrics[mode][name] += self._of_all_processes(values).tolist()

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor | None:
        """Groups in an accumulation window, over all processes; Trainer would count the labels' tokens."""
        if not batch_samples:
            return None
        groups = sum(len(batch["input_ids"]) // int(batch["group_size"]) for batch in batch_samples)
        counted: Tensor = self.accelerator.gather(torch.tensor([groups], device=device))
        return counted.sum()

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            ids = ["prompt_ids", "responses_ids"]
            names = [*ids, *(f"teacher_{name}" for name in ids), "scores", "row"]
            self._signature_columns = names  # type: ignore[assignment]
