"""The tokens that several rows begin with: prefilled once, shared by every pass over what follows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hf_icon2.blocks import input_device

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
        """The arguments that give `rows` rows this prefix for one pass."""
        if self.cache is None:
            return {"use_cache": False}
        cache = copy.copy(self.cache)
        cache.layers = [_lent(layer, rows) for layer in self.cache.layers]
        return {"past_key_values": cache, "use_cache": True}


class _LentLayer(DynamicLayer):
    """A prefix of one row lent to many for one pass: nothing is kept, so a batch holds one block's keys at a time."""

    def __init__(self, prefix: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert prefix.keys is not None and prefix.values is not None
        self.dtype, self.device, self.is_initialized = prefix.dtype, prefix.device, True
        self.keys, self.values = prefix.keys, prefix.values
        self._prefix = prefix.keys, prefix.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The prefix's keys and values in front of each row's own."""
        keys, values = (states.expand(len(key_states), -1, -1, -1) for states in self._prefix)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _lent(layer: Any, rows: int) -> Any:  # noqa: ANN401  (any kind of cache layer)
    if type(layer) is DynamicLayer:
        return _LentLayer(layer)
    layer = copy.deepcopy(layer)
    layer.reorder_cache(torch.zeros(rows, dtype=torch.long))
    return layer


def shared_prefix(
    model: PreTrainedModel, trunk: nn.Module, rows: Sequence[Sequence[int]], limit: int
) -> Prefix:
    """Prefills the ids that every row begins with; at most `limit`, so that nothing that is read lies inside.

    A model with a state-space part keeps no per-position keys to share, so it reads every row whole.

    Args:
        model: Causal LM.
        trunk: What runs its blocks, with or without the head.
        rows: Lists of token ids.
        limit: Most tokens to share.
    """
    shared = 0
    while shared < limit and all(row[shared] == rows[0][shared] for row in rows):
        shared += 1
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if shared == 0 or model._is_stateful or not kinds <= _ATTENTION:
        return Prefix(0, None)
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([rows[0][:shared]], device=input_device(model))
    with torch.no_grad():
        trunk(input_ids=ids, past_key_values=cache, use_cache=True)
    return Prefix(shared, cache)
