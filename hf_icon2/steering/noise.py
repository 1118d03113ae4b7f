"""Sampling noise as a pure function of (row seed, step, token), the same on every device and in every batch.

Gumbel-max sampling with it makes a row's text depend on its seed alone, not on its neighbours, the world size or
a restart; two rows with one seed share their noise, so that a pair differs only where steering matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -1640531527  # 0x9E3779B9 as int32: spreads consecutive token ids over all bits
_MIX_1, _MIX_2 = -2048144789, -1028477387  # murmur3's 32-bit finaliser, 0x85EBCA6B and 0xC2B2AE35


def row_seed(run_seed: int, row_id: str) -> int:
    """Seed of one row, 0 to 2**63 - 1; stable across versions and machines."""
    digest = hashlib.blake2b(f"{run_seed}:{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def gumbel_noise(
    seeds: Sequence[int], step: int | Sequence[int], vocabulary: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard Gumbel noise; arg-max of (log-probability + noise) is a sample from the distribution.

    Args:
        seeds: One per row, R.
        step: Number of tokens generated so far, by all rows or by each.
        vocabulary: V.
        device: Where to make it.

    Returns:
        (R, V) float32. The uniforms behind it have 24 bits, so the noise lies between -2.9 and 17.4.
    """
    steps = [step] * len(seeds) if isinstance(step, int) else step
    pairs = [_keys(*pair) for pair in zip(seeds, steps, strict=True)]
    keys = torch.tensor(pairs, dtype=torch.int32, device=device)  # (R, 2)
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=device).mul_(_GOLDEN)
    bits = _mix_(tokens + keys[:, :1])
    bits = _mix_(bits.bitwise_xor_(keys[:, 1:]))
    uniform = bits.bitwise_and_(0xFFFFFF).float().add_(0.5).mul_(2.0**-24)
    return uniform.log_().neg_().log_().neg_()


def _keys(seed: int, step: int) -> tuple[int, int]:
    """Two 32-bit keys of a row at a step, as signed integers."""
    digest = hashlib.blake2b(step.to_bytes(8, "big"), key=seed.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big", signed=True), int.from_bytes(digest[4:], "big", signed=True)


def _mix_(bits: Tensor) -> Tensor:
    """murmur3's finaliser on int32, in place; masks make the shifts logical."""
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF)).mul_(_MIX_1)
    bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7FFFF)).mul_(_MIX_2)
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))
