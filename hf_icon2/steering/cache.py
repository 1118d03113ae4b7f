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
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if total > self._keys_buffer.shape[-2]:
            self._keys_buffer = _with_room(self._keys_buffer[..., :used, :], total + _STEP)
            self._values_buffer = _with_room(self._values_buffer[..., :used, :], total + _STEP)
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
        index = beam_idx.to(self._keys_buffer.device)
        self._keys_buffer = _with_rows(self._keys_buffer, index, used)
        self._values_buffer = _with_rows(self._values_buffer, index, used)
        self.keys = self._keys_buffer[..., :used, :]
        self.values = self._values_buffer[..., :used, :]


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model, with room to grow in its plain full-attention layers."""
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = RoomyLayer()  # type: ignore[no-untyped-call]
    return cache


def joinable(cache: DynamicCache) -> bool:
    """Whether rows of different lengths can be put side by side: every layer holds all keys of every row."""
    return len(_roomy(cache)) == len(cache.layers)


def joined(first: DynamicCache, second: DynamicCache, rows: int, columns: int) -> DynamicCache:
    """The rows of two `joinable` caches in one: the last `columns` columns of each, zeros where it has fewer."""
    for layer, other in zip(_roomy(first), _roomy(second), strict=True):
        layer.keys, layer._keys_buffer = _side_by_side([layer.keys, other.keys], rows, columns)
        layer.values, layer._values_buffer = _side_by_side([layer.values, other.values], rows, columns)
    return first


def _roomy(cache: DynamicCache) -> list[RoomyLayer]:
    return [layer for layer in cache.layers if isinstance(layer, RoomyLayer)]


def _side_by_side(parts: list[Tensor | None], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The parts' rows at the right edge, (rows, heads, columns, head_dim), and the buffer with room behind it."""
    filled = [part for part in parts if part is not None]  # prompts of one token have cached nothing
    _, heads, _, width = filled[0].shape
    shape = (rows, heads, columns + _STEP, width)
    buffer = torch.zeros(shape, dtype=filled[0].dtype, device=filled[0].device)
    start = 0
    for part in (part[:, :, -columns:] for part in filled):
        buffer[start : start + len(part), :, columns - part.shape[2] : columns] = part
        start += len(part)
    return buffer[:, :, :columns], buffer


def _with_room(states: Tensor, columns: int) -> Tensor:
    buffer = torch.empty(
        (*states.shape[:-2], columns, states.shape[-1]), dtype=states.dtype, device=states.device
    )
    buffer[..., : states.shape[-2], :] = states
    return buffer


def _with_rows(buffer: Tensor, index: Tensor, used: int) -> Tensor:
    """The rows `index` of a buffer; only rows that change place are copied if there are not more than before."""
    if len(index) > len(buffer):
        larger = buffer.new_empty((len(index), *buffer.shape[1:]))
        torch.index_select(buffer[:, :, :used], 0, index, out=larger[:, :, :used])
        return larger
    moved = (index != torch.arange(len(index), device=index.device)).nonzero()[:, 0]
    if len(moved):
        buffer[moved, :, :used] = buffer[index[moved], :, :used]
    return buffer[: len(index)]
