"""Computes scale and offset of a range, and rounds values to int8 levels (affine int8 quantization).

Ranges, scales and offsets are floats of one shape: `[1]` for a whole tensor, `[H]` for heads, `[out, 1]` for the rows
of a weight, `[..., 1]` for tokens. Scales and offsets must broadcast to the values that are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "EPS",
    "INT8_MAX",
    "INT8_MIN",
    "asymmetric_offset",
    "asymmetric_scale",
    "fake_quantize",
    "quantize",
    "symmetric_scale",
]

EPS = 2.0**-23
INT8_MIN, INT8_MAX = -128, 127
_FLOAT16_MAX = torch.finfo(torch.float16).max


def symmetric_scale(low: Tensor, high: Tensor) -> Tensor:
    """Return the scale that maps the larger of |low| and |high| to 127, for offset 0.

    `[H], [H] -> [H]` or `[out, 1], [out, 1] -> [out, 1]`, in the dtype of `low`.
    """
    return (torch.maximum(low.abs(), high.abs()) / INT8_MAX).clamp_min(EPS)


def asymmetric_scale(low: Tensor, high: Tensor) -> Tensor:
    """Return the scale that maps the range, widened to include 0, onto 256 levels: `[1], [1] -> [1]`, in their dtype.

    Computed in float32 if the width of the range overflows its dtype, as it can in float16.
    """
    low, high = low.clamp_max(0), high.clamp_min(0)
    width = high - low
    if width.isinf().any():
        width = high.float() - low.float()
    return (width / (INT8_MAX - INT8_MIN)).to(low.dtype).clamp_min(EPS)


def asymmetric_offset(low: Tensor, scale: Tensor) -> Tensor:
    """Return the signed offset that maps the range's lower end to -128: `[1], [1] -> [1]`.

    An integer in a float dtype, rounded half to even, not clamped.
    """
    return torch.round(-low.clamp_max(0) / scale) + INT8_MIN


def quantize(values: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Round `values / scale + offset` to integers in -128..127, in the shape and dtype of the values.

    Computed in the wider dtype of values and scale. All steps after the division are in place: this is a hot path.
    """
    levels = values / scale
    if offset is not None:
        levels.add_(offset)
    return levels.round_().clamp_(INT8_MIN, INT8_MAX).to(values.dtype)


def fake_quantize(values: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Return `values` with int8's error: quantized, then dequantized to the same shape and dtype."""
    levels = quantize(values, scale, offset)
    if offset is not None:
        levels.sub_(offset)
    levels.mul_(scale)
    if levels.dtype == torch.float16:  # rounding may move the range's end beyond the largest float16
        levels.clamp_(-_FLOAT16_MAX, _FLOAT16_MAX)
    return levels
