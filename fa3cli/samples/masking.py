"""Removes padding from observed tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["real_rows", "real_states"]


def real_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the rows of the tokens that `mask [B, S]` keeps: `[B, S, C] or [B*S, C] -> [N, C]`.

    Without a mask, or if the rows are not all tokens (an expert gets only some), the values are returned unchanged.
    """
    if mask is None or values.shape[:-1].numel() != mask.numel():
        return values
    return values.flatten(0, -2)[_kept(mask.flatten(), values.device)]


def real_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the states of the tokens that `mask [B, S]` keeps: `[B, H, S, D] -> [1, H, N, D]`; all without a mask."""
    if mask is None or (states.shape[0], states.shape[2]) != mask.shape:
        return states
    # [B, H, S, D] -> [B, S, H, D] -> [N, H, D] -> [H, N, D] -> [1, H, N, D]
    return states.transpose(1, 2)[_kept(mask, states.device)].transpose(0, 1).unsqueeze(0)


def _kept(mask: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Return the positions that a mask keeps, one index per dimension; computed on the mask's device, to avoid a sync."""
    return tuple(index.to(device) for index in mask.nonzero(as_tuple=True))
