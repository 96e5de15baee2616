"""m3: the power of the mean activations with which int8 weights change the outputs least (AWQ)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.reference_linear import fake_quantize_weight

__all__ = ["searched_scale"]

_RATIOS = [step / 20 for step in range(20)]
_SMALLEST = 1e-4


def searched_scale(group: GroupData) -> Tensor:
    """Return the best scale `[in]` on the first sample; weights are quantized per row, activations are not.

    An error is the sum over the linears of the mean squared difference of their outputs.
    """
    values = group.inputs.samples[0]
    magnitudes = values.abs().mean(dim=0)
    outputs = [linear(values, weight, bias).float() for weight, bias in zip(group.weights, group.biases)]
    best, least = torch.ones_like(magnitudes), torch.inf
    for ratio in _RATIOS:
        scale = magnitudes.pow(ratio).clamp(min=_SMALLEST)
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for weight, bias, output in zip(group.weights, group.biases, outputs):
            rounded = fake_quantize_weight(weight * scale, mm_tensor=False).div_(scale)
            error += (output - linear(values, rounded, bias).float()).square_().mean().item()
        if error < least:
            best, least = scale, error
    return best
