"""Mean log-probability of responses without ever holding their logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trl.trainer.utils as trl_utils
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from hf_icon2.trainers.adapters import below_adapter

_VOCABULARY_TILE = 4096
"""TRL projects 4,096 tokens onto 32,768 words at a time, 512 MB in float32; this is an eighth of it, 64 MB."""


def fuse_head(model: nn.Module) -> None:
    """Lets a model, or the one inside a PEFT wrapper, return log-probabilities in the place of logits."""
    add_fused_lm_head(below_adapter(model))


def mean_log_probs(model: nn.Module, batch: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """Mean log-probability per token of each response, its end included.

    Args:
        model: After `fuse_head`.
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (R, T).
        prefix: In front of these names.

    Returns:
        (R,) float32 in nats, at most 0.
    """
    ids, attention, completion = (
        batch[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")
    )
    labels = ids.masked_fill(completion == 0, -100)
    with _narrow_tiles():
        output = model(input_ids=ids, attention_mask=attention, labels=labels, fused_lm_head=True)
    tokens = ids.shape[1] - 1  # from the right: adapters may put virtual tokens before them
    return output.log_probs[:, -tokens:].float().sum(1) / completion[:, 1:].sum(1)  # type: ignore[no-any-return]


@contextmanager
def _narrow_tiles() -> Iterator[None]:
    """TRL reads the width of its tiles from its module at every forward pass, and takes no argument for it."""
    wide = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = min(wide, _VOCABULARY_TILE)
    try:
        yield
    finally:
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = wide
