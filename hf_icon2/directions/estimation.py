"""From contrasts to directions, and how far to trust them. Pure functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hf_icon2.directions.config import DirectionVectorConfig, Method

Finder = Callable[[Tensor], Tensor]
"""Maps contrasts (N, L, D) to unit directions (L, D)."""


def mean_difference(contrasts: Tensor) -> Tensor:
    """The mean contrast with norm 1.

    Args:
        contrasts: State under the positive side minus state under the negative one, (N, L, D).

    Returns:
        Unit vectors, (L, D).
    """
    return torch.nn.functional.normalize(contrasts.mean(0), dim=-1)


def principal_component(contrasts: Tensor) -> Tensor:
    """First principal component of the contrasts, not centred (Icon², Algorithm 1).

    It maximises the sum of squared projections of the contrasts themselves, so a shift that all instructions
    share counts in full. The sign is the mean contrast's.

    Args:
        contrasts: (N, L, D).

    Returns:
        Unit vectors, (L, D).
    """
    return torch.stack([_first_axis(layer, layer.mean(0)) for layer in contrasts.unbind(1)])


def centred_component(contrasts: Tensor) -> Tensor:
    """First principal component of the contrasts minus their mean: how contrasts differ, not what they share.

    Args:
        contrasts: (N, L, D).

    Returns:
        Unit vectors, (L, D), signed so that the mean contrast projects positively.
    """
    return torch.stack([_first_axis(layer - layer.mean(0), layer.mean(0)) for layer in contrasts.unbind(1)])


FINDERS: Mapping[Method, Finder] = {
    "pca": principal_component,
    "mean_difference": mean_difference,
    "centred_pca": centred_component,
}


def evidence(contrasts: Tensor, finder: Finder, *, seed: int = 0) -> dict[str, list[float]]:
    """How well a direction found on one half of the contrasts holds on the other half, per layer.

    Args:
        contrasts: (N, L, D) with N >= 2; the halves are the even and the odd rows of a random order.
        finder: How directions are found.
        seed: Of the order and of the random control.

    Returns:
        Lists over layers. `held_out_accuracy`: share of held-out contrasts that project positively on the
        other half's direction. `random_accuracy`: the same for a random direction, signed on the other half.
        `split_half_cosine`: cosine between the two halves' directions.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(contrasts), generator=generator)
    halves = contrasts[order[0::2]], contrasts[order[1::2]]
    found = [finder(half) for half in halves]
    noise = torch.nn.functional.normalize(torch.randn(contrasts.shape[1:], generator=generator), dim=-1)
    chance = [noise * (half.mean(0) * noise).sum(-1, keepdim=True).sign() for half in halves]
    return {
        "held_out_accuracy": _crossed_accuracy(halves, found),
        "random_accuracy": _crossed_accuracy(halves, chance),
        "split_half_cosine": [round(float(value), 4) for value in (found[0] * found[1]).sum(-1)],
    }


def scale_norms(config: DirectionVectorConfig) -> Tensor:
    """The norm each direction has under the record's scale, (C, L)."""
    of_layers = (1.0,) * len(config.layers) if config.scale == "unit" else config.residual_norms
    rows = [
        config.contrast_norms.get(name) if config.scale == "contrast" else of_layers for name in config.names
    ]
    if not all(rows):
        raise ValueError(
            f"these directions are imported, their {config.scale} norms unknown; use scale 'unit'"
        )
    return torch.tensor(rows)


def _crossed_accuracy(halves: tuple[Tensor, Tensor], directions: list[Tensor]) -> list[float]:
    """Mean over both halves of the share that projects positively on the other half's direction."""
    shares = [
        (torch.einsum("nld,ld->nl", half, direction) > 0).float().mean(0)
        for half, direction in zip(halves, reversed(directions), strict=True)
    ]
    return [round(float(value), 4) for value in (shares[0] + shares[1]) / 2]


def _first_axis(rows: Tensor, mean: Tensor) -> Tensor:
    """Right singular vector of the largest singular value of `rows` (N, D), with the sign of `mean` (D,)."""
    if not bool(rows.any()):
        return torch.zeros_like(mean)  # nothing varies, and any axis would be made up
    if len(rows) < rows.shape[1]:  # the smaller Gram matrix has the same spectrum
        _, vectors = torch.linalg.eigh((rows @ rows.T).double())
        axis = rows.double().T @ vectors[:, -1]
    else:
        _, vectors = torch.linalg.eigh((rows.T @ rows).double())
        axis = vectors[:, -1]
    axis = torch.nn.functional.normalize(axis, dim=0).to(rows.dtype)
    return axis if float(axis @ mean) >= 0 else -axis
