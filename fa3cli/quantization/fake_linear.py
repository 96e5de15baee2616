"""Computes a float linear like its W8A8 export, and quantizes the float weight in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.numerics.affine import INT8_MAX, quantize, symmetric_scale
from fa3cli.numerics.row_blocks import row_blocks
from fa3cli.quantization.dynamic_linear import token_scales

__all__ = ["fake_dynamic_linear", "fake_linear"]

_ELEMENTS = 1 << 20  # elements of the weight per block: smaller blocks are slower, larger ones need more memory


def fake_linear(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    *,
    mm_tensor: bool,
    reference: bool,
) -> Tensor:
    """Return `dq(q(x)) @ dq(q(weight))^T + bias` in the dtype of the states: `[..., in] -> [..., out]`.

    `weight [out, in]`, `bias [out]`; the input's `scale` and `offset` are `[1]`, or per token `[..., 1]`. The factors are
    integers of magnitude up to 255, which bfloat16 represents exactly, so the product has no more error than the float
    model's product. float16 would overflow in the sums, so float16 models multiply in float32.
    """
    dtype = torch.float32 if states.dtype == torch.float16 else states.dtype
    scale, offset = scale.to(states.device).float(), offset.to(states.device).float()
    levels = quantize(states.float(), scale, offset).sub_(offset).to(dtype)
    output = states.new_empty(*states.shape[:-1], len(weight))
    if not output.numel():  # an expert that got no token
        return output
    for rows, steps, block in _quantized_blocks(weight, mm_tensor=mm_tensor, reference=reference):
        # Scales are multiplied after the sum, as engines do: before it, the factors would not be exact in bfloat16.
        products = linear(levels, block.to(dtype)).float().mul_(steps.float().flatten() * scale)
        output[..., rows] = products if bias is None else products.add_(bias[rows].float())
    return output


def fake_dynamic_linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `fake_linear` for a linear whose input is quantized at run time, with one scale per token.

    `states [..., in]`, `weight [out, in]`, `bias [out] -> [..., out]`, in the dtype of the states.
    """
    scale = token_scales(states)
    offset = torch.zeros(1, device=states.device)
    return fake_linear(states, weight, bias, scale, offset, mm_tensor=False, reference=False)


def _quantized_blocks(weight: Tensor, *, mm_tensor: bool, reference: bool) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the rows of `weight [out, in]`, their scales `[rows, 1]` or `[1]`, and their levels `[rows, in]`.

    All are in the weight's dtype; levels are integers from -127 to 127.

    The reference divides in the model's dtype, improved numerics in float32.
    """
    step = max(1, _ELEMENTS // max(weight.shape[1], 1))
    whole = _scale(*weight.aminmax()).view(1) if mm_tensor else None
    for start in range(0, len(weight), step):
        block = weight[start : start + step]
        scales = _scale(block.amin(1, keepdim=True), block.amax(1, keepdim=True)) if whole is None else whole
        # Levels have the weight's dtype: even bfloat16 represents integers up to 127 exactly.
        levels = torch.empty_like(block)
        for rows in row_blocks(block):
            values, steps = block[rows], scales if mm_tensor else scales[rows]
            if not reference:
                values, steps = values.float(), steps.float()
            levels[rows] = torch.div(values, steps).round_().clamp_(-INT8_MAX, INT8_MAX)
        yield slice(start, start + len(block)), scales, levels


def _scale(low: Tensor, high: Tensor) -> Tensor:
    # Rounded to the weight's dtype, which is the model's: exports store scales in it.
    return symmetric_scale(low.float(), high.float()).to(low.dtype)
