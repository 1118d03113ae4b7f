"""Settings of Mind's Mirror's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_icon2.trainers.student_config import StudentConfig


@dataclass
class MindsMirrorConfig(StudentConfig):
    """Settings of `MindsMirrorTrainer`; see `StudentConfig` for the others.

    alpha, the prefixes, the learning rate, its linear schedule, the batch size per device and both lengths are the
    authors'. Their 60 to 300 epochs on 700 questions are too many for most data; 3 is our choice.

    Args:
        alpha: Weight of the label's cross-entropy, from 0 to 1; the rationale's is 1 - alpha. 1 trains on labels
            alone and needs no rationales, 0 on rationales alone.
        label_prefix: In front of a prompt that is answered by its label. This is the prefix to use the student with.
        rationale_prefix: In front of a prompt that is answered by its rationale.
        max_prompt_length: Longest prompt in tokens, with its prefix; None keeps all.
        max_target_length: Longest label or rationale in tokens, with its end; None keeps all. The authors cut what
            is longer; here the row is left out, and counted in a warning.
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "The initial learning rate for AdamW."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows per device and step."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Rows per device in evaluation."})
    alpha: float = field(
        default=0.5, metadata={"help": "Weight of the label's loss; the rationale's is 1 - alpha."}
    )
    label_prefix: str = field(
        default="predict: ", metadata={"help": "In front of a prompt that is answered by its label."}
    )
    rationale_prefix: str = field(
        default="explain: ", metadata={"help": "In front of a prompt that is answered by its rationale."}
    )
    max_prompt_length: int | None = field(
        default=1024, metadata={"help": "Longest prompt in tokens; longer rows are left out."}
    )
    max_target_length: int | None = field(
        default=256, metadata={"help": "Longest label or rationale in tokens; longer rows are left out."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}; allowed: 0 (rationales alone) to 1 (labels alone)")
        if 0 < self.alpha < 1 and self.label_prefix == self.rationale_prefix:
            raise ValueError(
                f"label_prefix and rationale_prefix are both {self.label_prefix!r}, so the student cannot tell what is "
                "asked of it; give two that differ"
            )
        for name in ("max_prompt_length", "max_target_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; allowed: 1 or more, or None to keep all rows")
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} is not part of this loss; leave it at 0"
            )
        if self.ddp_broadcast_buffers is None:
            # Two forward passes come before a backward one, and the second broadcast would overwrite buffers that
            # the first pass saved. Buffers of language models are constants.
            self.ddp_broadcast_buffers = False
        super().__post_init__()
