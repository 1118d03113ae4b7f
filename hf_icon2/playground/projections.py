"""Where each token of a text lies along a direction, as the unsteered model reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_icon2.blocks import Blocks, read_states
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import pad_batch


def token_projections(
    blocks: Blocks,
    directions: DirectionVectors,
    rows: Sequence[Sequence[int]],
    *,
    criterion: str,
    layer: int,
    pad: int,
) -> list[list[float]]:
    """Projection of every token's state on the unit direction, in mean residual norms of the layer.

    Call it outside of any steering.

    Args:
        blocks: Of the model to read with.
        directions: Measured on this model.
        rows: R lists of token ids, none empty: prompt and answer.
        criterion: Whose direction.
        layer: Block whose output is read.
        pad: Padding id.

    Returns:
        R lists, as long as the rows.
    """
    unit = torch.nn.functional.normalize(directions.at(criterion, layer), dim=0)
    norm = directions.config.residual_norms[directions.config.layers.index(layer)]
    device = next(blocks.trunk.parameters()).device
    ids, mask = (tensor.to(device) for tensor in pad_batch(rows, pad, side="right"))

    def along(hidden: Tensor) -> Tensor:  # (R, T, D) -> (R, T)
        return hidden.float() @ (unit / norm).to(hidden.device)

    found = read_states(blocks, [layer], along, input_ids=ids, attention_mask=mask, use_cache=False)[:, 0]
    return [row[: len(ids)].tolist() for row, ids in zip(found, rows, strict=True)]
