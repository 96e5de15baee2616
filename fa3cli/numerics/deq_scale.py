"""Packs deq_scale, the factor from int32 accumulators to floats, in the form that Ascend kernels read."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack_deq_scale", "unpack_deq_scale"]


def pack_deq_scale(deq_scale: Tensor, model_dtype: torch.dtype) -> Tensor:
    """Return float32 `[out]` in the form that kernels for `model_dtype` load.

    bfloat16 models use float32; float16 and float32 models use the float32's bit pattern as int32, sign-extended to
    int64.
    """
    if model_dtype == torch.bfloat16:
        return deq_scale.float()
    return deq_scale.float().view(torch.int32).to(torch.int64)


def unpack_deq_scale(stored: Tensor) -> Tensor:
    """Return the float32 `[out]` that `pack_deq_scale` stored, from either form."""
    return stored if stored.dtype == torch.float32 else stored.to(torch.int32).view(torch.float32)
