"""The tokens that all prompts of one side begin with: prefilled once, shared by every batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from hf_icon2.blocks import Blocks

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Prefix:
    """What rows share.

    Args:
        length: Number of shared tokens.
        cache: Their keys and values, one row; None where nothing is shared.
    """

    length: int
    cache: DynamicCache | None

    def expanded(self, rows: int) -> dict[str, object]:
        """The arguments that give `rows` rows this prefix; a fresh cache each time."""
        if self.cache is None:
            return {"use_cache": False}
        cache = copy.deepcopy(self.cache)
        cache.reorder_cache(torch.zeros(rows, dtype=torch.long))  # type: ignore[arg-type]
        return {"past_key_values": cache, "use_cache": True}


def shared_prefix(
    model: PreTrainedModel, blocks: Blocks, rows: Sequence[Sequence[int]], limit: int
) -> Prefix:
    """Prefills the ids that every row begins with; at most `limit`, so that no pooled state is inside.

    A model with a state-space part keeps no per-position keys to share, so it reads every row whole.
    """
    shared = 0
    while shared < limit and all(row[shared] == rows[0][shared] for row in rows):
        shared += 1
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if shared == 0 or model._is_stateful or not kinds <= _ATTENTION:
        return Prefix(0, None)
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([rows[0][:shared]], device=model.device)
    with torch.no_grad():
        blocks.trunk(input_ids=ids, past_key_values=cache, use_cache=True)
    return Prefix(shared, cache)
