"""DPO on steered pairs: TRL's trainer with the paper's settings, and a weight and margin per pair if wanted.

Left to others: the mathematics (losses), the columns of a dataset (pairs), the comparison with the paper's
runs (monitor).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from hf_icon2.cards import PAPER, model_card
from hf_icon2.trainers.card import CardMixin
from hf_icon2.trainers.config import Icon2DPOConfig
from hf_icon2.trainers.losses import dpo_loss
from hf_icon2.trainers.monitor import RewardHackingMonitor
from hf_icon2.trainers.pairs import PAIR_COLUMNS, check_pairs, pair_columns, provenance
from hf_icon2.trainers.reference import SteeredReferenceMixin, described, reference_directions
from hf_icon2.trainers.sources import name_of

if TYPE_CHECKING:
    from peft import PeftConfig

Pairs: TypeAlias = Dataset | IterableDataset
Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


class Icon2DPOTrainer(CardMixin, SteeredReferenceMixin):
    """DPO with a weight and a margin per pair. The only change to `DPOTrainer` is what these add to the loss.

    Float columns `weight` and `margin` of a dataset, for instance from the self-check of the pairs, enter the
    loss as in `losses.dpo_loss`; without them losses are TRL's. Other columns are ignored, however many.
    Around the loss it adds the reward-hacking monitor, early stopping (see `Icon2DPOConfig`), a copy of the
    model as reference where TRL could not reload one, and a card that says where the pairs came from.

    Args:
        model: Model, or id or path of one.
        ref_model: Reference; None takes the model as it is before training.
        args: Settings; None takes the defaults and the folder `icon2-dpo`.
        train_dataset: Pairs with `prompt`, `chosen` and `rejected`, message lists or text.
        eval_dataset: Held-out pairs (or several sets by name), for early stopping.
        callbacks: Further callbacks.
        peft_config: Adapter to train instead of the whole model.
        **kwargs: The remaining arguments of `DPOTrainer`, such as `processing_class`.

    Attributes:
        monitor: The reward-hacking monitor; its `outcome()` is for reports.
    """

    _tag_names = ["trl", "dpo", "icon2"]
    _name = "Icon2 DPO"
    _paper = PAPER

    args: Icon2DPOConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        ref_model: PreTrainedModel | None = None,
        args: Icon2DPOConfig | None = None,
        *,
        train_dataset: Pairs | None = None,
        eval_dataset: Pairs | Mapping[str, Pairs] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        peft_config: "PeftConfig | None" = None,
        **kwargs: Any,
    ) -> None:
        args = Icon2DPOConfig("icon2-dpo") if args is None else args
        _check_arguments(args, model, kwargs.get("processing_class"))
        _check_datasets(args, train_dataset, eval_dataset)
        self._reference_directions = reference_directions(model, args.reference_steering)
        if ref_model is None and peft_config is None and not args.precompute_ref_log_probs:
            ref_model = _reference_copy(model)
        tolerance, window = args.reward_hacking_tolerance, args.reward_hacking_window
        self.monitor = RewardHackingMonitor(tolerance=tolerance, window=window)
        self._provenance = provenance(train_dataset)
        super().__init__(
            model,
            ref_model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[*_callbacks(args, self.monitor), *(callbacks or ())],
            peft_config=peft_config,
            **kwargs,
        )
        self.data_collator = _WithPairColumns(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        """Keeps the two columns when those that nobody uses are removed."""
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        known: list[str] = self._signature_columns or []
        self._signature_columns = [  # type: ignore[assignment]
            *known,
            *(name for name in PAIR_COLUMNS if name not in known),
        ]

    def compute_ref_log_probs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """As in TRL, which would hand the two columns to the model."""
        inputs = _without_pair_columns(inputs)
        chosen, rejected = super().compute_ref_log_probs(model, inputs)
        return chosen, rejected

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - as in Trainer: a loss, or a loss and the model's outputs
        """TRL's loss and metrics, plus what weight and margin change in the loss.

        TRL's loss stays a term of it, with what TRL may add (the auxiliary loss of a mixture of experts). The
        log-probabilities are read from the forward passes that TRL makes, so that none is made twice.
        """
        shape = {name: inputs[name] for name in PAIR_COLUMNS if name in inputs}
        batch = self.with_reference(_without_pair_columns(inputs))
        with self.reference_given(), _recorded_log_probs(self.model) as passes:
            result = super().compute_loss(model, batch, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        if not shape:
            return result
        policy = _pair_logps(passes[0], batch["completion_mask"].shape[1] - 1)
        reference = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        shaped = dpo_loss(*policy, *reference, beta=self.beta, **shape)
        change = (shaped - dpo_loss(*policy, *reference, beta=self.beta)).mean()
        return (result[0] + change, result[1]) if return_outputs else result + change

    def _card(self, **shared: Any) -> str:
        return model_card(
            **shared,
            provenance=self._provenance,
            settings=self._settings(),
            monitor=self.monitor.summary() if self.args.monitor_reward_hacking else "Not monitored.",
        )

    def _settings(self) -> dict[str, object]:
        """What a reader of the card asks for."""
        args, state, columns = self.args, self.state, self._provenance["columns"]
        best = None
        if state.best_metric is not None:
            best = f"{args.metric_for_best_model} {state.best_metric:.4f} at step {state.best_global_step}"
        return {
            "beta": args.beta,
            **self._training_settings(),
            "reference steered by": described(args.reference_steering),
            "per-pair columns": ", ".join(name for name in PAIR_COLUMNS if name in columns) or "none",
            "best held-out metric": best or "not tracked",
        }


class _WithPairColumns:
    """A collator that also returns `weight` and `margin` where the examples have them."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collate(examples), **pair_columns(examples)}


def _without_pair_columns(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in PAIR_COLUMNS}


@contextmanager
def _recorded_log_probs(model: Any) -> Iterator[list[Tensor]]:  # noqa: ANN401 - whatever wraps the model
    """Log-probabilities of the model's forward passes inside, in order; each (2B, >= T - 1) in nats."""
    passes: list[Tensor] = []

    def record(module: nn.Module, args: object, output: Any) -> None:  # noqa: ANN401 - TRL's private class
        passes.append(output.log_probs)

    handle = model.register_forward_hook(record)
    try:
        yield passes
    finally:
        handle.remove()


def _pair_logps(log_probs: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities of the chosen and of the rejected completions, each (B,) float32.

    Args:
        log_probs: Per token in nats, (2B, >= tokens), chosen rows first.
        tokens: Columns that count, from the right: adapters may put virtual tokens before them.
    """
    chosen, rejected = log_probs[:, -tokens:].float().sum(dim=1).chunk(2)
    return chosen, rejected


def _reference_copy(model: str | PreTrainedModel) -> PreTrainedModel | None:
    """A copy of a model that exists in memory only; None where TRL makes the reference itself."""
    if isinstance(model, str) or is_peft_model(model) or name_of(model):
        return None
    reference: PreTrainedModel = copy.deepcopy(model).eval()
    return reference


def _callbacks(args: Icon2DPOConfig, monitor: RewardHackingMonitor) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [monitor] if args.monitor_reward_hacking else []
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
    return callbacks


def _check_arguments(args: object, model: str | PreTrainedModel, processing_class: object) -> None:
    if not isinstance(args, Icon2DPOConfig):
        raise TypeError(
            f"args is a {type(args).__name__}; Icon2DPOTrainer takes an Icon2DPOConfig, which has every "
            "field of DPOConfig"
        )
    if processing_class is None and not isinstance(model, str) and name_of(model) is None:
        raise ValueError(
            "the model was built in memory and names no folder or Hub id to load a tokenizer from; pass "
            "processing_class=tokenizer"
        )


def _check_datasets(args: Icon2DPOConfig, train_dataset: Pairs | None, eval_dataset: object) -> None:
    columns = check_pairs(train_dataset, "train_dataset")
    if eval_dataset is not None:
        check_pairs(eval_dataset, "eval_dataset")
    elif args.early_stopping_patience is not None:
        raise ValueError(
            f"early_stopping_patience={args.early_stopping_patience} needs held-out pairs, but eval_dataset "
            "is None; pass one, for instance from train_dataset.train_test_split(0.02), or leave out "
            "early_stopping_patience"
        )
    shaped = [name for name in PAIR_COLUMNS if name in columns]
    plain = args.loss_type == ["sigmoid"] and args.f_divergence_type == "reverse_kl"
    if shaped and (not plain or args.use_weighting or args.ld_alpha is not None):
        raise ValueError(
            f"train_dataset has the column(s) {', '.join(shaped)}, which shape the plain DPO loss only, but "
            f"loss_type={args.loss_type}, f_divergence_type={args.f_divergence_type!r}, use_weighting="
            f"{args.use_weighting}, ld_alpha={args.ld_alpha}; remove these columns with "
            "dataset.remove_columns, or leave these settings at their defaults"
        )
