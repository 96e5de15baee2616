"""Implements m1 and m4: the ratio of each channel's largest activation and weight, both to a power (SmoothQuant)."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.quantization.anti_outlier.group import GroupData

__all__ = ["balanced_scale", "largest_activations", "largest_weights", "migrated_scale", "power_ratio"]

_SMALLEST = 1e-5
_MIGRATION = 0.9  # m4 moves nearly all of an outlier into the weights


def balanced_scale(group: GroupData) -> Tensor:
    """Return m1's scale: `sqrt(max|x| / max|W|)` of each channel, `[in]`."""
    return power_ratio(largest_activations(group), largest_weights(group), 0.5, 0.5)


def migrated_scale(group: GroupData) -> Tensor:
    """Return m4's scale: `max|x|^0.9 / max|W|^0.1` of each channel, `[in]`; heads that share a source get their mean."""
    scale = power_ratio(largest_activations(group), largest_weights(group), _MIGRATION, 1 - _MIGRATION)
    if group.repeats == 1:
        return scale
    shared = scale.view(group.heads, group.repeats, -1).mean(dim=1, keepdim=True)
    return shared.expand(-1, group.repeats, -1).reshape(-1)


def largest_activations(group: GroupData) -> Tensor:
    """Return the largest |x| of each channel over all samples, `[in]`."""
    return torch.maximum(group.inputs.high.abs(), group.inputs.low.abs())


def largest_weights(group: GroupData) -> Tensor:
    """Return the largest |W| of each input channel over the group's linears, `[in]`, at least 1e-5."""
    blocks = (block for weight in group.weights for _, block in group.blocks(weight))
    return _at_least(torch.stack([block.abs().amax(dim=0) for block in blocks]).amax(dim=0))


def power_ratio(activations: Tensor, weights: Tensor, alpha: float, beta: float) -> Tensor:
    """Return `activations^alpha / weights^beta`, at least 1e-5, in their dtype."""
    return _at_least(activations.pow(alpha) / weights.pow(beta))


def _at_least(values: Tensor) -> Tensor:
    # Clamped in float32, since float16 and bfloat16 cannot represent 1e-5 exactly.
    return values.float().clamp(min=_SMALLEST).to(values.dtype)
