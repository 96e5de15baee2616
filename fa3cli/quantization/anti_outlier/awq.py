"""Implements m3 (AWQ): searches the power of the mean activations that gives int8 weights the least output error."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.row_blocks import row_blocks
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.reference_linear import fake_quantize_weight

__all__ = ["searched_scale"]

# AWQ's published grid: powers 0, 0.05, ..., 0.95.
_RATIOS = [step / 20 for step in range(20)]
_SMALLEST = 1e-4


def searched_scale(group: GroupData) -> Tensor:
    """Return the best scale `[in]` on the first sample; weights are quantized per row, activations are not.

    An error is the sum over the linears of the mean squared difference of their outputs.
    """
    values = group.inputs.samples[0]
    magnitudes = values.abs().mean(dim=0)
    errors = [_OutputError(group, values, *linear) for linear in zip(group.weights, group.biases)]
    # If no error is a number, the scales stay 1, and nothing is smoothed.
    best, least = torch.ones_like(magnitudes), torch.inf
    for ratio in _RATIOS:
        scale = magnitudes.pow(ratio).clamp(min=_SMALLEST)
        # Afterwards the largest scale is the inverse of the smallest, so neither side gets all of the change.
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for output_error in errors:
            error += output_error.with_scale(scale)
            if error >= least:  # the other linears can only increase the error
                break
        if error < least:
            best, least = scale, error
    return best


class _OutputError:
    """Measures the output error of a linear whose smoothed weight is int8; buffers are reused between scales."""

    def __init__(self, group: GroupData, values: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._group, self._values, self._weight, self._bias = group, values, weight, bias
        self._exact = group.outputs(values, weight, bias).float()
        _, block = next(group.blocks(weight))
        self._rounded, self._output = torch.empty_like(block), values.new_empty(len(values) * len(block))

    def with_scale(self, scale: Tensor) -> float:
        """Return the mean squared difference with `scale [in]`."""
        return sum(
            self._of_rows(rows, block, scale) * (len(block) / len(self._weight))
            for rows, block in self._group.blocks(self._weight)
        )

    def _of_rows(self, rows: slice, weight: Tensor, scale: Tensor) -> float:
        rounded = self._rounded[: len(weight)]
        for block in row_blocks(weight):
            smoothed = fake_quantize_weight(weight[block] * scale, mm_tensor=False)
            torch.div(smoothed, scale, out=rounded[block])
        output = self._output[: len(self._values) * len(weight)].view(len(self._values), -1)
        if self._bias is None:
            torch.mm(self._values, rounded.T, out=output)
        else:
            torch.addmm(self._bias[rows], self._values, rounded.T, out=output)
        return (self._exact[:, rows] - output).square_().mean().item()
