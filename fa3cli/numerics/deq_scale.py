"""deq_scale, the factor that turns an int32 accumulator back into a float, as Ascend kernels read it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack_deq_scale", "unpack_deq_scale"]


def pack_deq_scale(deq_scale: Tensor, model_dtype: torch.dtype) -> Tensor:
    """Store float32 `[out]` the way kernels for `model_dtype` load it.

    bfloat16 models keep float32; float16 and float32 models get the float32's bit pattern as int32,
    sign-extended to int64.
    """
    if model_dtype == torch.bfloat16:
        return deq_scale.float()
    return deq_scale.float().view(torch.int32).to(torch.int64)


def unpack_deq_scale(stored: Tensor) -> Tensor:
    """Return the float32 `[out]` that `pack_deq_scale` stored, from either form."""
    return stored if stored.dtype == torch.float32 else stored.to(torch.int32).view(torch.float32)
