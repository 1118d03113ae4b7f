"""Mind's Mirror: the student learns a label and, as a task of its own, the rationale that leads to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from hf_icon2.cards import distilled_model_card
from hf_icon2.trainers.adapters import adapted, below_adapter
from hf_icon2.trainers.minds_mirror_config import MindsMirrorConfig
from hf_icon2.trainers.reasoning_rows import ReasoningCollator, prepare_reasoning, warn_of_shared_prompts
from hf_icon2.trainers.sources import loaded, pad_id, tokenizer_of
from hf_icon2.trainers.student import StudentTrainer, prepared_eval

if TYPE_CHECKING:
    from peft import PeftConfig

_TITLE = (
    "Mind's Mirror: Distilling Self-Evaluation Capability and Comprehensive Thinking "
    "from Large Language Models"
)
MINDS_MIRROR_PAPER = {
    "title": _TITLE,
    "id": "2311.09214",  # arXiv
    "citation": f"""\
@inproceedings{{liu2024mindsmirror,
    title     = {{{{{_TITLE}}}}},
    author    = {{Weize Liu and Guocong Li and Kai Zhang and Bang Du and Qiyuan Chen and Xuming Hu and Hongxia Xu
                 and Jintai Chen and Jian Wu}},
    year      = 2024,
    booktitle = {{Proceedings of the 2024 Conference of the North American Chapter of the Association for
                 Computational Linguistics: Human Language Technologies (Volume 1: Long Papers)}},
    eprint    = {{2311.09214}},
    archivePrefix = {{arXiv}},
    url       = {{https://aclanthology.org/2024.naacl-long.376}},
}}""",
}


class MindsMirrorTrainer(StudentTrainer):
    """Trains a student on labels and rationales as two tasks (Mind's Mirror, arXiv 2311.09214).

    The loss is alpha CE(label | label_prefix + prompt) + (1 - alpha) CE(rationale | rationale_prefix + prompt), each a
    mean over its own tokens, ends included, of all rows of a step. This is one stage: the paper first trains on the
    teacher's evaluations (label: the verdict, rationale: the evaluation), then on its answers.

    Besides the loss it logs both terms without their weights, `label_loss` and `rationale_loss`, and `label_accuracy`,
    the share of rows all of whose label tokens are the likeliest after the ones before: those that greedy decoding
    would answer with exactly this label. To choose a checkpoint by it, set `load_best_model_at_end` and
    `metric_for_best_model="eval_label_accuracy"`.

    Args:
        model: Student, or id or path of one: an encoder-decoder, such as T5, or a decoder-only model.
        args: Settings.
        train_dataset: Rows of `prompt`, text or a conversation, `label` and `rationale`, texts. Where there are
            several chains of thought for a prompt, each is a row.
        eval_dataset: Rows held out for validation, or several sets by name. Not the test set: the authors chose
            their checkpoints by theirs.
        processing_class: The student's tokenizer; loaded from the model's path by default.
        peft_config: Adapter to train instead of the whole model.
        callbacks: Further callbacks.
        **kwargs: The remaining arguments of `transformers.Trainer`.
    """

    _tag_names = ["trl", "minds-mirror", "distillation"]
    _name = "distillation of labels and rationales (Mind's Mirror)"
    _paper = MINDS_MIRROR_PAPER
    args: MindsMirrorConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MindsMirrorConfig | None = None,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        args = MindsMirrorConfig("minds-mirror") if args is None else args
        if not isinstance(args, MindsMirrorConfig):
            raise TypeError(f"args is a {type(args).__name__}; MindsMirrorTrainer takes a MindsMirrorConfig")
        set_seed(args.seed)  # before an adapter draws its weights
        tokenizer = processing_class or tokenizer_of(model, "model", "processing_class")
        student = loaded(model, args.model_init_kwargs)
        self.weights = {
            task: weight
            for task, weight in (("label", args.alpha), ("rationale", 1 - args.alpha))
            if weight > 0
        }
        self._student = below_adapter(student)
        train = self._prepared(args, tokenizer, train_dataset, "train_dataset")
        known = {"label": args.label_prefix, "rationale": args.rationale_prefix}
        self._student.config.task_prefixes = {
            task: known[task] for task in self.weights
        }  # use warns of others

        def prepare_held_out(dataset: Dataset, name: str) -> Dataset:
            rows = self._prepared(args, tokenizer, dataset, name)
            warn_of_shared_prompts(train, rows, next(iter(self.weights)), name)
            return rows

        self.prepare_held_out = prepare_held_out
        super().__init__(  # type: ignore[no-untyped-call]
            model=adapted(student, peft_config, args),
            args=args,
            train_dataset=train,
            eval_dataset=prepared_eval(prepare_held_out, eval_dataset),
            processing_class=tokenizer,
            data_collator=ReasoningCollator(
                list(self.weights), pad_id(tokenizer), encoder_decoder=self._is_encoder_decoder
            ),
            callbacks=list(callbacks),
            **kwargs,
        )
        self._noted: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.float64))
        self.model.add_model_tags(self._tag_names)  # type: ignore[operator]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - as in Trainer
        """Weighted sum of both tasks' means over the tokens of all micro-batches of a step."""
        if num_items_in_batch is None:
            counts, processes = self._target_tokens([inputs]), 1
        else:
            counts, processes = cast(Tensor, num_items_in_batch), self.accelerator.num_processes
        loss = torch.zeros((), device=counts.device)
        for (task, weight), count in zip(self.weights.items(), counts, strict=True):
            labels = inputs[task]["labels"]
            logits = self._target_logits(model, inputs[task])
            losses = token_losses(logits, labels)
            self._note(task, losses.detach(), logits.detach(), labels)
            loss = loss + weight * losses.sum() / count * processes
        return (loss, {}) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of both passes."""
        return sum(super(MindsMirrorTrainer, self).floating_point_ops(batch) for batch in inputs.values())

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        for batch in inputs.values():
            super()._track_num_input_tokens(batch)  # type: ignore[no-untyped-call]

    @property
    def _is_encoder_decoder(self) -> bool:
        return bool(self._student.config.is_encoder_decoder)

    def _prepared(
        self, args: MindsMirrorConfig, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, name: str
    ) -> Dataset:
        prefixes = {"label": args.label_prefix, "rationale": args.rationale_prefix}
        return prepare_reasoning(
            dataset,
            name,
            tokenizer,
            {task: prefixes[task] for task in self.weights},
            encoder_decoder=self._is_encoder_decoder,
            max_prompt_length=args.max_prompt_length,
            max_target_length=args.max_target_length,
        )

    def _target_logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits that predict the labels (B, K), (B, K, V)."""
        read = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels = batch["labels"]
        if self._is_encoder_decoder:
            shifted = self._student.prepare_decoder_input_ids_from_labels(labels)
            return cast(Tensor, model(**read, decoder_input_ids=shifted).logits)
        width = labels.shape[1] + 1  # the column before each label predicts it
        if "logits_to_keep" in signature(self._student.forward).parameters:
            read["logits_to_keep"] = width  # type: ignore[assignment]
        return cast(Tensor, model(**read).logits[:, -width:-1])

    def _note(self, task: str, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds up loss, tokens, rows whose tokens are all the likeliest, and rows."""
        right = ((logits.argmax(-1) == labels) | (labels == -100)).all(1)
        noted = torch.stack([losses.sum(1), (labels != -100).sum(1), right, torch.ones_like(right)], dim=1)
        mode = "train" if self.model.training else "eval"
        self._noted[mode, task] += self._of_all_processes(noted).cpu().double().sum(0)

    def _figures(self, mode: str) -> dict[str, float]:
        figures = {}
        for task in self.weights:
            loss, tokens, right, rows = self._noted.pop((mode, task), torch.zeros(4)).tolist()
            if rows:
                figures[f"{task}_loss"] = loss / tokens
                if task == "label":
                    figures["label_accuracy"] = right / rows
        if mode == "eval" and figures:  # Trainer's is a mean over batches, whatever their tokens
            figures["loss"] = sum(weight * figures[f"{task}_loss"] for task, weight in self.weights.items())
        return figures

    def _card(self, **shared: Any) -> str:
        args = self.args
        lengths = args.max_prompt_length, args.max_target_length
        return distilled_model_card(
            **shared,
            method=self._name,
            paper=self._paper,
            lesson="it learned to answer with a label and, asked for it, with the rationale that leads there",
            seen=f"{len(cast(Dataset, self.train_dataset))} rows of a prompt with its {' and '.join(self.weights)}",
            teacher=None,
            settings={
                "alpha": args.alpha,
                "prefix of labels": repr(args.label_prefix),
                "prefix of rationales": repr(args.rationale_prefix),
                "longest prompt, target": ", ".join("any" if n is None else f"{n} tokens" for n in lengths),
                **self._training_settings(),
            },
        )

    def _target_tokens(self, batches: Sequence[dict[str, Any]]) -> Tensor:
        """Target tokens of several batches by task, (tasks,)."""
        return torch.stack(
            [sum((batch[task]["labels"] != -100).sum() for batch in batches) for task in self.weights]
        )

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor | None:
        """Target tokens by task in an accumulation window, over all processes."""
        if not batch_samples:
            return None
        counted: Tensor = self.accelerator.gather(self._target_tokens(batch_samples).to(device)[None])
        return counted.sum(0)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            names = [f"{task}_{part}_ids" for task in self.weights for part in ("prompt", "target")]
            self._signature_columns = [*names, "length"]  # type: ignore[assignment]


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per token in nats, 0 where there is no target.

    Args:
        logits: (B, K, V); the result is float32 whatever they are.
        labels: (B, K) int64, -100 where there is no target.

    Returns:
        (B, K).
    """
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.view_as(labels)
