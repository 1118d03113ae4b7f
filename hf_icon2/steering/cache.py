"""A key-value cache that grows in place: decoding many rows should not copy all earlier keys at every step."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_STEP = 64  # columns of room added at a time


class RoomyLayer(DynamicLayer):
    """The only change to DynamicLayer is that keys and values live in buffers with room for more columns.

    `keys` and `values` are views of the used part, (B, heads, T, head_dim).
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Starts with empty buffers shaped like the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        self._keys_buffer = key_states[..., :0, :]
        self._values_buffer = value_states[..., :0, :]
        self.keys, self.values = self._keys_buffer, self._values_buffer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends columns and returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.keys.shape[-2]
        total = used + key_states.shape[-2]
        if total > self._keys_buffer.shape[-2]:
            self._keys_buffer = _with_room(self.keys, total + _STEP)
            self._values_buffer = _with_room(self.values, total + _STEP)
        self._keys_buffer[..., used:total, :] = key_states
        self._values_buffer[..., used:total, :] = value_states
        self.keys = self._keys_buffer[..., :total, :]
        self.values = self._values_buffer[..., :total, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Takes the rows `beam_idx`, any number of them, and keeps the room."""
        used = self.get_seq_length()
        if used == 0:
            return
        index = beam_idx.to(self.keys.device)
        self._keys_buffer = _with_rows(self._keys_buffer, index, used)
        self._values_buffer = _with_rows(self._values_buffer, index, used)
        self.keys = self._keys_buffer[..., :used, :]
        self.values = self._values_buffer[..., :used, :]


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model, with room to grow in its plain full-attention layers."""
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = RoomyLayer()
    return cache


def _with_room(states: Tensor, columns: int) -> Tensor:
    buffer = torch.empty(
        (*states.shape[:-2], columns, states.shape[-1]), dtype=states.dtype, device=states.device
    )
    buffer[..., : states.shape[-2], :] = states
    return buffer


def _with_rows(buffer: Tensor, index: Tensor, used: int) -> Tensor:
    """The rows `index` of a buffer; only rows that change place are copied if there are not more than before."""
    if len(index) > len(buffer):
        return buffer.index_select(0, index)
    moved = (index != torch.arange(len(index), device=index.device)).nonzero()[:, 0]
    if len(moved):
        buffer[moved, :, :used] = buffer[index[moved], :, :used]
    return buffer[: len(index)]
