"""Quantizes a linear to W8A8 with the reference's numerics: in the model's dtype, in the reference's order of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.affine import (
    INT8_MAX,
    asymmetric_offset,
    asymmetric_scale,
    fake_quantize,
    quantize,
    symmetric_scale,
)
from fa3cli.numerics.deq_scale import pack_deq_scale
from fa3cli.numerics.row_blocks import row_blocks

__all__ = ["fake_quantize_weight", "input_parameters", "quantize_reference_linear"]

_INT32_MIN = -(2**31)


def fake_quantize_weight(weight: Tensor, *, mm_tensor: bool) -> Tensor:
    """Return a weight `[out, in]` with int8's error; the reference calibrates with such weights."""
    scale, rounded = _weight_scale(weight, mm_tensor=mm_tensor), torch.empty_like(weight)
    for block in row_blocks(weight):
        rounded[block] = fake_quantize(weight[block], scale if mm_tensor else scale[block])
    return rounded


def input_parameters(low: Tensor, high: Tensor, model_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return scale and offset of a linear's input, `[1]` each, from its range.

    A histogram's range is float32. Like the reference, its scale and offset are rounded to the model's dtype for
    bfloat16, and stay float32 for float16.
    """
    scale = asymmetric_scale(low, high)
    offset = asymmetric_offset(low, scale)
    # For float16, a histogram's float32 values are kept: the export has the same bits as the reference's.
    if model_dtype == torch.bfloat16:
        scale, offset = scale.to(model_dtype), offset.to(model_dtype)
    return scale, offset


def quantize_reference_linear(
    weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor, model_dtype: torch.dtype, *, mm_tensor: bool
) -> dict[str, Tensor]:
    """Return the tensors of a W8A8 linear by their export names.

    `weight [out, in]`, `bias [out]`, the input's range `low [1]`, `high [1]`. If deq_scale underflows
    to 0, as it can in float16, quant_bias is the smallest int32, the result of a CPU's conversion of the quotient.
    """
    input_scale, input_offset = input_parameters(low, high, model_dtype)
    weight_scale = _weight_scale(weight, mm_tensor=mm_tensor)
    int8_weight = torch.empty(weight.shape, dtype=torch.int8)
    for block in row_blocks(weight):
        levels = quantize(weight[block], weight_scale if mm_tensor else weight_scale[block])
        # A quotient that is rounded to bfloat16 may reach -128: the reference stores -127 for it.
        int8_weight[block] = levels.clamp_min_(-INT8_MAX)
    weight_scale = weight_scale.cpu()
    # Multiplied in the dtype of the scales, like the reference: in float16 the product can underflow to 0.
    deq_scale = (input_scale * weight_scale.flatten()).float().expand(len(weight))
    row_sums = int8_weight.sum(dim=1).float()
    own = torch.zeros_like(deq_scale) if bias is None else bias.cpu().float()
    # One rounding of the whole difference, in float32: the reference's order of steps.
    quant_bias = torch.round(own / deq_scale - row_sums * input_offset.float())
    fits = quant_bias.isfinite() & (quant_bias.abs() < -_INT32_MIN)
    return {
        "weight": int8_weight,
        "weight_scale": weight_scale,
        "weight_offset": torch.zeros_like(weight_scale),
        "input_scale": input_scale,
        "input_offset": input_offset,
        "quant_bias": torch.where(fits, quant_bias, _INT32_MIN).to(torch.int32),
        "deq_scale": pack_deq_scale(deq_scale, model_dtype),
    }


def _weight_scale(weight: Tensor, *, mm_tensor: bool) -> Tensor:
    """Return one scale per row, `[out, 1]`, or with `mm_tensor` one scale for all rows, `[1]`."""
    if mm_tensor:
        low, high = (bound.view(1) for bound in weight.aminmax())
    else:
        # aminmax along rows is 20 times slower than amin and amax.
        low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    return symmetric_scale(low, high)
