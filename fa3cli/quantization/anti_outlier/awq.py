"""m3: the power of the mean activations with which int8 weights change the outputs least (AWQ)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.numerics.row_blocks import row_blocks
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
    errors = [_OutputError(values, weight, bias) for weight, bias in zip(group.weights, group.biases)]
    best, least = torch.ones_like(magnitudes), torch.inf
    for ratio in _RATIOS:
        scale = magnitudes.pow(ratio).clamp(min=_SMALLEST)
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for each in errors:
            error += each.with_scale(scale)
            if error >= least:  # and the others only add to it
                break
        if error < least:
            best, least = scale, error
    return best


class _OutputError:
    """How far a linear's output is from the float one when its smoothed weight is int8; memory is used again."""

    def __init__(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._values, self._weight, self._bias = values, weight, bias
        output = linear(values, weight, bias)
        self._exact, self._output = output.float(), torch.empty_like(output)
        self._rounded = torch.empty_like(weight)
        self._difference = torch.empty_like(self._exact)

    def with_scale(self, scale: Tensor) -> float:
        """Return the mean squared difference with `scale [in]`."""
        for block in row_blocks(self._weight):
            smoothed = fake_quantize_weight(self._weight[block] * scale, mm_tensor=False)
            torch.div(smoothed, scale, out=self._rounded[block])
        if self._bias is None:
            torch.mm(self._values, self._rounded.T, out=self._output)
        else:
            torch.addmm(self._bias, self._values, self._rounded.T, out=self._output)
        return torch.sub(self._exact, self._output, out=self._difference).square_().mean().item()
