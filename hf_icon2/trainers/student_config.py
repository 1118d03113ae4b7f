"""Settings that trainers of students share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl.trainer.base_config import _BaseConfig

from hf_icon2.trainers.precision import decide_precision


@dataclass
class StudentConfig(_BaseConfig):
    """Settings of trainers of students. Without a GPU the defaults train in float32.

    Args:
        model_init_kwargs: For `from_pretrained` of models given by id or path.
    """

    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bfloat16; unset: where a GPU supports it and fp16 is off."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Recompute activations to save memory; unset: where bf16 could be used."},
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "For from_pretrained of models given by id or path."}
    )

    def __post_init__(self) -> None:
        decide_precision(self)
        super().__post_init__()  # type: ignore[no-untyped-call]
