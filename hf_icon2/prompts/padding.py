"""Token ids of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding id; falls back to the end-of-sequence id, which the attention mask makes harmless."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def pad_batch(rows: Sequence[Sequence[int]], pad: int, *, side: str) -> tuple[Tensor, Tensor]:
    """Stacks id lists of different lengths.

    Args:
        rows: B lists of token ids.
        pad: Id that fills the gaps.
        side: "left" for generation, "right" for reading states.

    Returns:
        Ids and attention mask (1 for real tokens), both (B, T) int64.
    """
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = 1
    return ids, mask
