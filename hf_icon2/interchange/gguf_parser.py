"""A bounded reader for small GGUF files from strangers.

The `gguf` package's reader trusts the counts in a file: an array that claims 2**60 elements keeps it busy for ever.
This one reads control vectors only, takes every length as a claim to be checked against the file, and copies nothing
but the vectors. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, int, int, torch.dtype]
"""Layer, offset, width and dtype of a tensor."""
Value = str | int | float | bool

ARCHITECTURE = "controlvector"
HINT = f"{ARCHITECTURE}.model_hint"
OWN = "hf_icon2."  # prefix of our metadata; llama.cpp ignores keys it does not know

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # value type -> struct code
_STRING, _ARRAY = 8, 9
_DTYPES = {0: torch.float32, 1: torch.float16}
_DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")
_LONGEST_TEXT, _LARGEST_SET = 2**20, 2**30  # bytes; far above any real file's


def read_gguf(path: Path) -> tuple[dict[str, Value], dict[int, Tensor]]:
    """Metadata and vectors of a control vector file.

    Args:
        path: The file.

    Returns:
        Metadata without arrays, and per N the tensor `direction.N`, (D,) float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, no GGUF, or holds anything but `direction.N` of one width.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data).control_vector()
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a complete GGUF control vector: {error}") from error


class _Cursor:
    """Reads on from a position and never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def control_vector(self) -> tuple[dict[str, Value], dict[int, Tensor]]:
        if self.take(4) != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        version = self.number("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}; 2 and 3 in little-endian order can be read")
        tensors, pairs = self.number("Q"), self.number("Q")
        metadata = dict(self.pair() for _ in range(pairs))
        places = [self.place() for _ in range(tensors)]
        _check(places, len(self.data))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r}")
        start = -(-self.position // alignment) * alignment
        vectors = {layer: self.vector(start + offset, width, dtype) for layer, offset, width, dtype in places}
        return {key: value for key, value in metadata.items() if value is not None}, vectors

    def skip(self, count: int) -> int:
        """Passes over bytes and returns where they begin."""
        start = self.position
        if start + count > len(self.data):
            raise ValueError("it ends early")
        self.position += count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return self.data[start : self.position]

    def number(self, code: str) -> Any:  # noqa: ANN401  (what the code says)
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        length = self.number("Q")
        if length > _LONGEST_TEXT:
            raise ValueError(f"it claims a text of {length} bytes")
        return self.take(length).decode()

    def pair(self) -> tuple[str, Value | None]:
        """Key and value; None for an array, which is passed over."""
        key, kind = self.text(), self.number("I")
        if kind == _STRING:
            return key, self.text()
        if kind == _ARRAY:
            self.skip_array()
            return key, None
        return key, self.number(_code(kind))

    def skip_array(self) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind != _STRING:
            self.skip(count * struct.calcsize(f"<{_code(kind)}"))
            return
        for _ in range(count):  # ends with the file: every text takes 8 bytes or more
            self.skip(self.number("Q"))

    def place(self) -> Place:
        name = self.text()
        found = _DIRECTION.fullmatch(name)
        if found is None:
            raise ValueError(f"it holds a tensor {name[:60]!r}, where only 'direction.N' belongs")
        if self.number("I") != 1:
            raise ValueError(f"{name} is not one-dimensional")
        width, kind, offset = self.number("Q"), self.number("I"), self.number("Q")
        if kind not in _DTYPES:
            raise ValueError(f"{name} has GGML type {kind}; float32 (0) and float16 (1) can be read")
        return int(found[1]), offset, width, _DTYPES[kind]

    def vector(self, start: int, width: int, dtype: torch.dtype) -> Tensor:
        self.position = start
        return torch.frombuffer(bytearray(self.take(width * dtype.itemsize)), dtype=dtype).float()


def _code(kind: int) -> str:
    code = _SCALARS.get(kind)
    if code is None:
        raise ValueError(f"it has a value of unknown type {kind}")
    return code


def _check(places: list[Place], size: int) -> None:
    """Refuses what is no set of vectors, before anything is copied."""
    if not places:
        raise ValueError("it holds no 'direction.N'")
    if len({layer for layer, *_ in places}) != len(places):
        raise ValueError("it names a direction twice")
    widths = {width for _, _, width, _ in places}
    if len(widths) != 1 or not min(widths):
        raise ValueError(f"its directions have widths {sorted(widths)[:9]}, expected one width above 0")
    if sum(width * dtype.itemsize for _, _, width, dtype in places) > min(size, _LARGEST_SET):
        raise ValueError("it ends early")
