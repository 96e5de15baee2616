"""Quantizes q, k and v to int8 (FA3): one symmetric scale per head, the offset is always 0."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.affine import symmetric_scale

__all__ = ["quantize_heads"]


def quantize_heads(role: str, low: Tensor, high: Tensor, model_dtype: torch.dtype) -> dict[str, Tensor]:
    """Return `fa_<role>.scale [H, 1]` in the model's dtype and `fa_<role>.offset [H, 1]`, int8 zeros.

    `low [H]` and `high [H]` are the heads' ranges in float32. The dense Ascend kernels do not subtract an offset.
    """
    scale = symmetric_scale(low, high).unsqueeze(1).to(model_dtype)
    return {f"fa_{role}.scale": scale, f"fa_{role}.offset": torch.zeros(scale.shape, dtype=torch.int8)}
