"""Settings of the DPO trainer: the paper's defaults, early stopping and the reward-hacking monitor."""

from dataclasses import dataclass, field

from trl import DPOConfig  # type: ignore[attr-defined]

from hf_icon2.trainers.precision import decide_precision


@dataclass
class Icon2DPOConfig(DPOConfig):
    """Settings of `Icon2DPOTrainer`. The only change to `DPOConfig` is the paper's defaults and six fields.

    The paper's (section 5): beta 0.1, learning rate 5e-7, one epoch, cosine schedule, 10 % warm-up. Its batch
    of 128 is per_device_train_batch_size x gradient_accumulation_steps x devices, which your machine decides.
    Small models want a far higher learning rate. Without a GPU the defaults train in float32 and recompute
    nothing.

    Args:
        early_stopping_patience: Evaluations without improvement after which training stops and the best
            checkpoint is restored; None trains to the end. Needs `eval_strategy` and an `eval_dataset`. What
            counts is `metric_for_best_model`, by default the held-out loss: unlike reward accuracy it has no
            ties, and unlike the reward margin it rises when the model becomes wrong with confidence. Where
            `save_strategy` would not write a checkpoint at each evaluation, it becomes "best".
        early_stopping_threshold: Smallest improvement of that metric that counts.
        monitor_reward_hacking: Whether to compare train reward accuracy with the paper's runs and to warn.
        reward_hacking_tolerance: Warn beyond this part of the way from the paper's curve to its
            reward-hacking one; above 0, at most 1.
        reward_hacking_window: Fewest examples that the compared accuracy is averaged over.
        reference_steering: Strength per criterion by which the reference is steered, from each prompt's last
            token on, with the directions of `make_steerable`; on the command line as JSON. By default the
            reference is never steered, not even while the policy trains inside `steer`.
    """

    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "reference_steering"]

    learning_rate: float = field(default=5e-7, metadata={"help": "The initial learning rate for AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Epochs to train."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1 a share of all steps."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]  # as in TRL: None is decided on construction
        default=None, metadata={"help": "Train in bfloat16; unset: where a GPU supports it and fp16 is off."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Recompute activations to save memory; unset: where bf16 could be used."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without improvement and restore the best model."},
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "Smallest improvement of metric_for_best_model that counts."}
    )
    monitor_reward_hacking: bool = field(
        default=True, metadata={"help": "Compare train reward accuracy with the paper's runs and warn."}
    )
    reward_hacking_tolerance: float = field(
        default=0.5,
        metadata={"help": "Warn beyond this part of the way from the paper's curve to reward hacking."},
    )
    reward_hacking_window: int = field(
        default=512, metadata={"help": "Fewest examples that the compared accuracy is averaged over."}
    )

    reference_steering: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Strength per criterion by which the reference is steered, as JSON; unset: not."},
    )

    def __post_init__(self) -> None:
        decide_precision(self)
        if self.reward_hacking_window < 1 or not 0 < self.reward_hacking_tolerance <= 1:
            raise ValueError(
                f"reward_hacking_window={self.reward_hacking_window}, allowed: 1 or more; "
                f"reward_hacking_tolerance={self.reward_hacking_tolerance}, allowed: above 0, at most 1; to "
                "switch the monitor off, set monitor_reward_hacking=False"
            )
        if self.early_stopping_patience is not None:
            self._prepare_early_stopping(self.early_stopping_patience)
        super().__post_init__()  # type: ignore[no-untyped-call]
        if isinstance(self.reference_steering, str):
            raise ValueError(
                "reference_steering must map criteria to strengths, as JSON like '{\"honesty\": 0.1}'; got "
                f"{self.reference_steering!r}"
            )

    def _prepare_early_stopping(self, patience: int) -> None:
        """Has the best model tracked, saved when it is found, and restored at the end."""
        if patience < 1:
            raise ValueError(
                f"early_stopping_patience={patience}; allowed: 1 or more evaluations, or None for "
                "no early stopping"
            )
        if self.eval_strategy == "no":
            raise ValueError(
                f"early_stopping_patience={patience} needs evaluations, but eval_strategy is 'no'; set "
                "eval_strategy='steps' with eval_steps, or 'epoch', or leave out early_stopping_patience"
            )
        self.load_best_model_at_end = True
        self.metric_for_best_model = self.metric_for_best_model or "eval_loss"
        per_steps = self.eval_strategy == "steps"
        if self.save_strategy != self.eval_strategy or (per_steps and self.save_steps != self.eval_steps):
            self.save_strategy = "best"

    @property
    def pairs_per_step(self) -> int:
        """Pairs that one optimizer step sees, over all devices."""
        return int(self.train_batch_size * self.gradient_accumulation_steps * self.world_size)
