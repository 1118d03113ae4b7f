"""Which columns of a forward pass hold real tokens, from whatever attention mask the pass was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from transformers import Cache


def real_tokens(mask: object, tokens: int, past: object | None) -> Tensor | None:
    """Tells real tokens from padding.

    A 4-D mask says who attends to whom: a real token attends to itself, padding is attended to by nobody, so
    the diagonal of the pass's own columns says which they are.

    Args:
        mask: None where nothing is padded; (B, >= T) with 1 for real tokens; (B, 1, T, K), either boolean or
            additive (0 where a token attends); or one of these per kind of layer, as static caches get it.
        tokens: T, columns of the pass.
        past: The cache, or None.

    Returns:
        (B, T), not 0 for real tokens; None where all are real.

    Raises:
        ValueError: If the mask is of another kind.
    """
    if isinstance(mask, Mapping):
        mask = _plainest(mask)
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask[:, _own_columns(mask, tokens, past)] if _has_room(past) else mask[:, -tokens:]
    if (
        isinstance(mask, Tensor)
        and mask.dim() == 4
        and (mask.dtype == torch.bool or mask.is_floating_point())
    ):
        own = torch.arange(tokens, device=mask.device), _own_columns(mask, tokens, past)
        attends = mask[:, 0][:, *own]
        return attends if mask.dtype == torch.bool else attends == 0
    given = f"a {mask.dim()}-D {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
    raise ValueError(
        "padding must not be steered, so inside steer() and with positions='all' a pass needs a 2-D attention "
        f"mask, or a boolean or additive 4-D one; got {given}. Give the 2-D mask of the padded batch, or load "
        "the model with attn_implementation='sdpa'"
    )


def check_left_padding(mask: object) -> None:
    """Raises ValueError where prompts are padded on the right: generation goes on from their last column."""
    if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask[:, -1:].all()):
        raise ValueError("the prompts are padded on the right; generation needs padding_side='left'")


def _plainest(masks: Mapping[str, object]) -> object:
    """One of the masks: padding is in all of them, but a window may cut one."""
    for name in ("full_attention", *masks):
        if masks.get(name) is not None:
            return masks[name]
    return None


def _has_room(past: object | None) -> TypeGuard[Cache]:
    """Whether a mask has columns behind those of the pass, the empty ones of a static cache."""
    return isinstance(past, Cache) and bool(past.is_compileable)


def _own_columns(mask: Tensor, tokens: int, past: object | None) -> Tensor:
    """Where the mask's last dimension speaks of the pass's own columns, (T,)."""
    columns, last = torch.arange(tokens, device=mask.device), mask.shape[-1] - tokens
    if _has_room(past):
        # It counts in a tensor, which stays one, so that nobody waits for the device.
        return columns + torch.as_tensor(past.get_seq_length(), device=mask.device).clamp(max=last)
    return columns + last
