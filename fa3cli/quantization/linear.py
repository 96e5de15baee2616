"""Quantizes a linear to W8A8: int8 weight per output row, int8 input per tensor, and the kernel's other tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.affine import INT8_MAX, INT8_MIN, asymmetric_offset, asymmetric_scale, symmetric_scale
from fa3cli.numerics.deq_scale import pack_deq_scale
from fa3cli.numerics.row_blocks import row_blocks

__all__ = ["input_parameters", "linear_layout", "quantize_linear", "quantize_rows"]

_LARGEST_BIAS = 2.0**30  # in units of deq_scale: half of int32's range, the rest is for rowsum * offset


def input_parameters(low: Tensor, high: Tensor, model_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return scale, in the model's dtype, and offset of a linear's input, `[1]` each, from its range."""
    scale = asymmetric_scale(low, high).to(model_dtype)
    # A scale that was rounded down can push the offset above 127, but engines read it as int8.
    return scale, asymmetric_offset(low, scale.float()).clamp(INT8_MIN, INT8_MAX)


def quantize_linear(
    weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor, model_dtype: torch.dtype, *, mm_tensor: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a W8A8 linear by their export names.

    `weight [out, in]`, `bias [out]`, the input's range `low [1]`, `high [1]`. weight_scale is `[out, 1]`, or `[1]` with
    `mm_tensor`. Scales are rounded to the model's dtype first, and everything else is computed in float32 from the
    rounded scales, since engines multiply with these. `quant_bias = round(bias / deq_scale) - rowsum(weight) *
    input_offset`; if a row's bias would not fit int32 (nearly dead weights or inputs), its scale is enlarged until it fits.
    """
    input_scale, input_offset = input_parameters(low, high, model_dtype)
    row_low, row_high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    weight_scale = symmetric_scale(row_low.float(), row_high.float())
    if bias is not None:
        # The smallest weight scale of each row with which round(bias / deq_scale) stays within the limit.
        least = bias.float().abs().unsqueeze(1) / input_scale.to(weight.device).float() / _LARGEST_BIAS
        weight_scale = torch.maximum(weight_scale, least)
    weight_scale = (weight_scale.amax(0) if mm_tensor else weight_scale).to(model_dtype)
    int8_weight, row_sums = quantize_rows(weight, weight_scale.expand(len(weight), 1))

    weight_scale = weight_scale.cpu()
    # One value per row, with mm_tensor as well: engines read [out].
    deq_scale = (input_scale.float() * weight_scale.float().flatten()).expand(len(weight))
    # In int64 and float64: float32 does not represent all integers above 2^24.
    quant_bias = -row_sums * input_offset.long()
    if bias is not None:
        quant_bias += torch.round(bias.cpu().double() / deq_scale).long()
    return {
        "weight": int8_weight,
        "weight_scale": weight_scale,
        "weight_offset": torch.zeros_like(weight_scale),
        "input_scale": input_scale,
        "input_offset": input_offset.to(model_dtype),
        "quant_bias": quant_bias.int(),
        "deq_scale": pack_deq_scale(deq_scale, model_dtype),
    }


def linear_layout(
    shape: tuple[int, ...], model_dtype: torch.dtype, *, mm_tensor: bool = False, input_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a W8A8 linear of weight `[out, in]` on the meta device: only names, shapes and dtypes.

    With the reference's numerics, the input's scale and offset have the dtype of its range, `input_dtype`.
    """
    scale = (1,) if mm_tensor else (shape[0], 1)
    layouts = {
        "weight": (shape, torch.int8),
        "weight_scale": (scale, model_dtype),
        "weight_offset": (scale, model_dtype),
        "input_scale": ((1,), input_dtype or model_dtype),
        "input_offset": ((1,), input_dtype or model_dtype),
        "quant_bias": ((shape[0],), torch.int32),
        "deq_scale": ((shape[0],), torch.float32 if model_dtype == torch.bfloat16 else torch.int64),
    }
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in layouts.items()}


def quantize_rows(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Round `weight [out, in]` to int8 -127..127 by its rows' scales; also return the int64 row sums `[out]`."""
    quantized = torch.empty(weight.shape, dtype=torch.int8)
    row_sums = torch.empty(weight.shape[0], dtype=torch.int64)
    for block in row_blocks(weight):
        rounded = torch.div(weight[block].float(), scale[block].float()).round_().clamp_(-INT8_MAX, INT8_MAX)
        quantized[block] = rounded
        # torch sums int8 values in int64, so nothing overflows.
        row_sums[block] = quantized[block].sum(dim=1)
    return quantized, row_sums
