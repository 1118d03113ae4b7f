"""The file that lm-evaluation-harness's `steered` models read.

Read in `lm_eval/models/hf_steered.py` of 0.4.13: a pickled mapping from the name of a module below
`model.base_model` to `steering_vector`, `steering_coefficient`, `action`, `bias` and `head_index`. A forward hook
adds coefficient x vector, both in the model's dtype, to the module's output (or the first of a tuple) at every
position.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch import nn

from hf_icon2.blocks import find_blocks, unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.interchange.fixed import OPERATION, fixed_vectors
from hf_icon2.steering.plans import RowSteering
from hf_icon2.storage import write_atomic


def export_lm_eval(
    model: nn.Module, directions: DirectionVectors, steering: RowSteering, path: str | os.PathLike[str]
) -> Path:
    """Writes one steering for `lm_eval --model steered --model_args pretrained=...,steer_path=FILE`.

    There it equals `generate(..., steering=steering, positions="all")`.

    Args:
        model: Measured with `directions`; tells the names of its blocks.
        directions: Measured on this model.
        steering: Strength per criterion; it is folded into the vectors, the file's coefficients are 1.
        path: File to write, ending in .pt or .pth; its folder is made.

    Returns:
        The path.

    Raises:
        ValueError: For an unknown criterion, directions of another model, or another file ending, which
            lm_eval does not read.
    """
    target = Path(path)
    if target.suffix not in (".pt", ".pth"):
        raise ValueError(f"lm_eval reads steering vectors from .pt or .pth files, got {target.name!r}")
    blocks = find_blocks(model)
    directions.check_model(blocks.hidden_size, len(blocks.layers))
    vectors = fixed_vectors(directions, steering)
    names = {module: name for name, module in unwrap(model).base_model.named_modules()}
    entries = {
        names[blocks.layers[layer]]: {
            "steering_vector": vector.clone(),  # without the storage of what it was cut from
            "steering_coefficient": 1.0,
            "action": OPERATION,
            "bias": None,
            "head_index": None,
        }
        for layer, vector in vectors.items()
    }
    content = io.BytesIO()
    torch.save(
        entries, content
    )  # a pickle, because lm_eval reads nothing else; tensors and plain values only
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(target, content.getvalue())
