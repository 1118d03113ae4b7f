"""Settings that trainers on ranked responses share."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_icon2.trainers.student_config import StudentConfig


@dataclass
class RankedConfig(StudentConfig):
    """Settings of trainers on ranked responses; see `StudentConfig` for the others.

    Args:
        learning_rate: 8e-7 by default, PAD's; small models want a far higher one.
        max_length: Longest prompt and response together in tokens; longer rows are left out. None keeps all.
        group_size: Responses compared at a time; rows with more are split into random groups of this many,
            other ones in each epoch. None compares all responses of a row.
    """

    learning_rate: float = field(default=8e-7, metadata={"help": "The initial learning rate for AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Epochs to train."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1 a share of all steps."}
    )
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Longest prompt and response together in tokens; longer rows are left out."},
    )
    group_size: int | None = field(
        default=None,
        metadata={"help": "Responses compared at a time; rows with more are split into random groups."},
    )

    def __post_init__(self) -> None:
        if self.group_size is not None and self.dataloader_persistent_workers:
            raise ValueError(
                "group_size draws other groups in each epoch, and persistent workers would keep those of the first; "
                "set dataloader_persistent_workers=False"
            )
        super().__post_init__()
