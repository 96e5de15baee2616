"""Quantizes a linear to W8A8 dynamic: int8 weight per output row, int8 activations per token, at run time."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.affine import symmetric_scale
from fa3cli.quantization.linear import quantize_rows

__all__ = ["dynamic_linear_layout", "quantize_dynamic_linear", "token_scales"]


def quantize_dynamic_linear(weight: Tensor, model_dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of a W8A8 dynamic linear by their export names, on the CPU.

    `weight [out, in]` becomes int8 of the same shape, with weight_scale and weight_offset (zeros) `[out, 1]` in the
    model's dtype: the scale is rounded to that dtype first, since engines multiply with the rounded scale.
    """
    low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    # Rounded before the weight is quantized: engines multiply with the rounded scale.
    scale = symmetric_scale(low.float(), high.float()).to(model_dtype)
    int8_weight, _ = quantize_rows(weight, scale)
    scale = scale.cpu()
    return {"weight": int8_weight, "weight_scale": scale, "weight_offset": torch.zeros_like(scale)}


def token_scales(states: Tensor) -> Tensor:
    """Return the scales of inputs at run time, one per token: `[..., in] -> [..., 1]` in float32.

    A token's largest magnitude maps to 127, as in npu_dynamic_quant; a token of zeros gets the smallest scale.
    """
    return symmetric_scale(*(end.float() for end in states.aminmax(dim=-1, keepdim=True)))


def dynamic_linear_layout(shape: tuple[int, ...], model_dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of a W8A8 dynamic linear of weight `[out, in]` on the meta device."""
    scale = torch.empty(shape[0], 1, dtype=model_dtype, device="meta")
    weight = torch.empty(shape, dtype=torch.int8, device="meta")
    return {"weight": weight, "weight_scale": scale, "weight_offset": torch.empty_like(scale)}
