"""What one steered call adds, where: a steering (plain JSON) checked and turned into vectors per layer and row."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hf_icon2.directions.config import check_choice
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.masks import real_tokens

RowSteering = Mapping[str, float]
Steering = RowSteering | Sequence[RowSteering | None]
"""Strength per criterion for all rows, or one such mapping (or None) per row."""
Start = int | Tensor | None
Positions = Literal["last", "all"]
"""The last prompt token and what follows, or every real token, as exported directions do."""

_PACKED = (
    "several sequences are packed into one row (positions begin anew inside it), but start= counts the columns of "
    "one; leave out start=, or pad the sequences and give the attention mask"
)

_LARGEST = torch.finfo(torch.float32).max


class Plan:
    """The vectors of one steered call, and where in the current forward pass they go.

    A plan belongs to one thread and one call: its buffers are built at first use, on the device and in the dtype
    of the activations it meets.

    Args:
        vectors: Per layer, what to add to each of R rows, (R, D) float32; R = 1 serves any number of rows.
        start: First steered column of the sequence, cached columns counted, for all rows or of each, (R,); None
            steers every column.
        masked: Whether any pass may come: padding is then told by the attention mask, and a single token may
            begin a sequence. False for one generation that starts at the last column of left-padded prompts.

    Attributes:
        ran: Whether any pass has come.
    """

    def __init__(self, vectors: Mapping[int, Tensor], *, start: Start, masked: bool) -> None:
        self.vectors = dict(vectors)
        self.start = start
        self.masked = masked
        self.offset: int | None = 0
        self.mask: Tensor | None = None
        self.ran = False
        self._reached = False
        self._buffers: dict[int, Tensor] = {}

    def begin(
        self,
        inputs: Tensor,
        past: object | None,
        attention_mask: object = None,
        position_ids: Tensor | None = None,
    ) -> None:
        """Notes where a forward pass lies in the sequence.

        Args:
            inputs: Ids or embeddings of the pass, (B, T) or (B, T, D).
            past: The cache, or None.
            attention_mask: See `real_tokens`.
            position_ids: Positions of the pass, where they are given.

        Raises:
            ValueError: If it cannot be told which columns are to be steered.
        """
        tokens = inputs.shape[1]
        self.ran = True
        if not self.vectors:
            return
        self.mask = real_tokens(attention_mask, tokens, past) if self.masked else None
        if isinstance(self.start, Tensor):
            self.offset, self.mask = 0, self._from_start_of_row(inputs, past, self.mask)
        elif self.start is None or (self._reached and tokens == 1 and not self.masked):
            self.offset = 0  # generating, a single token is always a new one: no look at the cache needed
        else:
            if self.masked and attention_mask is None and tokens > 1:
                _check_one_sequence_per_row(position_ids)
            offset = max(0, self.start - _cached_columns(past))
            self.offset = offset if offset < tokens else None
            self._reached = self._reached or self.offset is not None

    def _from_start_of_row(self, inputs: Tensor, past: object | None, real: Tensor | None) -> Tensor:
        """Which columns of the pass each row has steered, (B, T)."""
        starts = _for_rows(self.start, len(inputs)).to(inputs.device)  # type: ignore[arg-type]
        columns = torch.arange(inputs.shape[1], device=inputs.device) + _cached_columns(past)
        steered = columns >= starts[:, None]
        return steered if real is None else steered & (real != 0)

    def begin_packed(self, inputs: Tensor, *, continuous: bool) -> None:
        """Notes a pass over several sequences that stand side by side in one row, without padding.

        Args:
            inputs: Ids or embeddings of the pass, (1, T) or (1, T, D).
            continuous: Whether the sequences are requests of a continuous batch.

        Raises:
            ValueError: If it cannot be told which columns are to be steered.
        """
        self.ran, self.offset, self.mask = True, 0, None
        if not self.vectors:
            return
        if continuous:
            raise ValueError(
                "continuous batching packs requests into one row, so this steering cannot tell them apart; call "
                "make_steerable(model, directions) first, then generate_batch(steering=...)"
            )
        if self.start is not None:
            raise ValueError(_PACKED)

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """The block's output (B, T, D) with this plan's vector added; in place unless gradients are recorded."""
        if self.offset is None or layer not in self.vectors:
            return hidden
        delta = self._buffer(layer, hidden)  # (B or 1, 1, D)
        if self.mask is not None:
            delta = delta * self.mask[:, self.offset :, None].to(hidden)
        if not torch.is_grad_enabled():
            (hidden[:, self.offset :] if self.offset else hidden).add_(delta)
            return hidden
        if self.offset == 0:
            return hidden + delta
        return torch.cat([hidden[:, : self.offset], hidden[:, self.offset :] + delta], dim=1)

    def select(self, rows: Tensor) -> Plan:
        """The same plan for other rows of its batch, for decoding loops that drop finished rows.

        Args:
            rows: Indices of the rows to keep, (R',).
        """
        vectors = {layer: value[rows.to(value.device)] for layer, value in self.vectors.items()}
        other = Plan(vectors, start=self.start, masked=self.masked)
        other._reached = self._reached
        return other

    def _buffer(self, layer: int, hidden: Tensor) -> Tensor:
        """The vectors of a layer as (B or 1, 1, D), like `hidden`; beams and returned sequences repeat each row."""
        rows = len(hidden)
        buffer = self._buffers.get(layer)
        if (
            buffer is not None
            and len(buffer) in (1, rows)
            and buffer.dtype == hidden.dtype
            and buffer.device == hidden.device
        ):
            return buffer
        vectors = self.vectors[layer]
        if len(vectors) > 1:
            vectors = _for_rows(vectors, rows)
        self._buffers[layer] = vectors[:, None, :].to(device=hidden.device, dtype=hidden.dtype)
        return self._buffers[layer]


def reach(positions: Positions, columns: int | None) -> dict[str, Any]:
    """Where a `Plan` starts and whether it must tell padding apart.

    Args:
        positions: Which tokens to steer.
        columns: Of the prompt; None where every sequence has its own prompt.
    """
    check_choice("positions", positions, get_args(Positions))
    if positions == "all":
        return {"start": None, "masked": True}
    return {"start": None if columns is None else columns - 1, "masked": False}


def plan_steering(
    directions: DirectionVectors,
    steering: Steering,
    *,
    start: Start,
    masked: bool,
    rows: int | None = None,
) -> Plan:
    """Checks a steering and mixes its directions, once per call.

    Args:
        directions: What can be steered.
        steering: Strengths for all rows, or a list with one entry per row.
        start: See `Plan`.
        masked: See `Plan`.
        rows: Number of rows a list must have; None where it is not known before the model runs.

    Raises:
        TypeError: If a strength is not a number, or the steering is neither a mapping nor a list of mappings.
        ValueError: For an unknown criterion, a strength that is not finite, or the wrong number of rows.
    """
    per_row = [steering] if isinstance(steering, Mapping) else list(_as_list(steering))
    if not isinstance(steering, Mapping) and rows is not None and len(per_row) != rows:
        raise ValueError(
            f"steering has {len(per_row)} entries for {rows} rows; give one entry per row (None for none), "
            "or one mapping for all rows"
        )
    mixes = [directions.mix(check_steering(directions, entry)) for entry in per_row]
    layers = sorted({layer for mix in mixes for layer in mix})
    zero = torch.zeros(directions.config.hidden_size)
    vectors = {layer: torch.stack([mix.get(layer, zero) for mix in mixes]) for layer in layers}
    return Plan(vectors, start=start, masked=masked)


def check_steering(directions: DirectionVectors, steering: RowSteering | None) -> dict[str, float]:
    """One row's steering with known criteria and finite strengths; None means none.

    Warns where a strength is above the criterion's calibrated maximum.
    """
    if steering is None:
        return {}
    if not isinstance(steering, Mapping):
        raise TypeError(f"a row's steering must map criteria to strengths, got {steering!r}")
    for name, strength in steering.items():
        if name not in directions.names:
            raise ValueError(
                f"unknown criterion {name!r}; these directions have: {', '.join(directions.names)}"
            )
        if isinstance(strength, bool) or not isinstance(strength, (int, float)):
            raise TypeError(f"strength of {name!r} must be a number, got {strength!r}")
        if not abs(strength) <= _LARGEST:  # catches NaN and whole numbers of any size as well
            raise ValueError(f"strength of {name!r} must be finite, got {strength}")
        limits = directions.config.strengths.get(name)
        if limits is not None and limits.maximum is not None and abs(strength) > limits.maximum * (1 + 1e-9):
            warnings.warn(
                f"strength {strength} of {name!r} is above its safe maximum {limits.maximum:.3g}: the text is "
                "likely to break. Lower it, or tune the directions again if you know better.",
                stacklevel=2,
            )
    return dict(steering)


def _for_rows(values: Tensor, rows: int) -> Tensor:
    """One value per row of a pass; beams and returned sequences repeat each row."""
    if rows == len(values):
        return values
    if rows % len(values):
        raise ValueError(
            f"this steering is for {len(values)} rows, but the model runs {rows}; give one entry per row"
        )
    return values.repeat_interleave(rows // len(values), dim=0)


def _cached_columns(past: object | None) -> int:
    return 0 if past is None else int(past.get_seq_length())  # type: ignore[attr-defined]


def _check_one_sequence_per_row(position_ids: Tensor | None) -> None:
    if position_ids is not None and position_ids.dim() == 2 and bool((position_ids.diff(dim=-1) < 0).any()):
        raise ValueError(_PACKED)


def _as_list(steering: object) -> Sequence[RowSteering | None]:
    if isinstance(steering, Sequence) and not isinstance(steering, str):
        return steering
    raise TypeError(
        f"steering must map criteria to strengths, like {{'honesty': 0.1}}, or list one such mapping per row; "
        f"got {steering!r}"
    )
