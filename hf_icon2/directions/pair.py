"""The two files of a set of directions: a record in JSON, and the vectors, whose SHA-256 the record names.

Two files cannot be replaced in one step. The record is written first, so that after a crash between the two it
names vectors that are not there, and the pair is refused.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hf_icon2.directions.config import CONFIG_NAME, DirectionVectorConfig, read_record
from hf_icon2.storage import read_limited, shortened, write_atomic

VECTORS_NAME = "direction_vectors.safetensors"
_TENSOR = "directions"
_LARGEST_HEADER = 2**20


def write_pair(folder: Path, config: DirectionVectorConfig, tensor: Tensor) -> None:
    """Writes record and vectors, (C, L, D) float32, each whole or not at all, into a folder made if missing.

    Raises:
        OSError: If the disk is full; what is in the folder is then the old pair, or refused by `read_pair`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save({_TENSOR: tensor.contiguous()}, {"format": "pt"})
    write_atomic(folder / CONFIG_NAME, config.to_json(hashlib.sha256(data).hexdigest()))
    write_atomic(folder / VECTORS_NAME, data)


def read_pair(folder: Path) -> tuple[DirectionVectorConfig, Tensor]:
    """Reads what `write_pair` wrote, or a pair of format 1, whose record names no SHA-256.

    Nothing is read that is larger than the record says.

    Raises:
        OSError: If a file is missing or unreadable.
        ValueError: If a file is damaged, or the two do not belong together.
    """
    config, digest = read_record(folder)
    path, shape = folder / VECTORS_NAME, (len(config.criteria), len(config.layers), config.hidden_size)
    size = 4 * math.prod(shape)
    if (found_size := path.stat().st_size) < 8 + size:
        raise _damaged(path, f"it has {found_size} bytes, by its record {shape} numbers of 4 bytes")
    data = read_limited(path, 8 + _LARGEST_HEADER + size)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers of a kind that torch has not
        raise _damaged(path, str(error)) from error
    if set(tensors) != {_TENSOR}:
        raise ValueError(f"{path} holds tensors {shortened(sorted(tensors))}, expected one named {_TENSOR!r}")
    tensor = tensors[_TENSOR]
    if (tensor.dtype, tuple(tensor.shape)) != (torch.float32, shape):
        raise ValueError(
            f"{path} must be float32 of shape {shape} (criteria, layers, hidden) by its record, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}; download or extract both files again"
        )
    if digest not in (None, hashlib.sha256(data).hexdigest()):
        raise ValueError(
            f"{path} and {CONFIG_NAME} do not belong together: the record names vectors of SHA-256 {digest}; a save "
            "or a download was interrupted, or the file is damaged; save, download or extract it again"
        )
    return config, tensor


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is truncated or not a safetensors file ({what}); download or extract it again")
