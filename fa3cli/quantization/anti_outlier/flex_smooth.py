"""Implements m6 (Flex Smooth): searches both powers of SmoothQuant per group, with int8 inputs and weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fa3cli.numerics.affine import EPS, INT8_MAX, INT8_MIN
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.smooth_quant import largest_activations, largest_weights, power_ratio

__all__ = ["flexible_scale"]

_POWERS = [round(0.05 * step, 2) for step in range(21)]


def flexible_scale(group: GroupData) -> Tensor:
    """Return `max|x|^alpha / max|W|^beta` with the best powers, `[in]`, in the inputs' dtype.

    Heads that share a source use their maximum.
    """
    alpha, beta = _best_powers(group)
    activations, weights = largest_activations(group), largest_weights(group)
    if group.repeats == 1:
        return power_ratio(activations, weights, alpha, beta)
    activations, weights = (
        magnitudes.view(group.heads, group.repeats, -1).amax(dim=1) for magnitudes in (activations, weights)
    )
    scale = power_ratio(activations, weights, alpha, beta)
    return scale.unsqueeze(1).expand(-1, group.repeats, -1).reshape(-1)


def _best_powers(group: GroupData) -> tuple[float, float]:
    """Search alpha with beta = 1 - alpha, then beta; on a tie the last candidate wins.

    If the first error is NaN (a row of zeros), no candidate compares as better, and the powers 0, 0 smooth nothing. The
    reference does the same.
    """
    search = _Search(group)
    alpha, beta, least = 0.0, 0.0, math.inf
    for candidate in _POWERS:
        error = search.error(candidate, 1 - candidate)
        # The first error is taken even if it is NaN, so that no later one compares as better.
        if candidate == _POWERS[0] or error <= least:
            alpha, least = candidate, error
    for candidate in _POWERS:
        error = search.error(alpha, candidate)
        if error <= least:
            beta, least = candidate, error
    return alpha, beta


class _Search:
    """Measures how much int8 changes the products of all samples with a group's weights, in blocks of weights."""

    def __init__(self, group: GroupData) -> None:
        self._group, self._values = group, torch.cat(group.inputs.samples)
        # Without blocks, the weights are one matrix, as in the reference.
        self._weights = [torch.cat(list(group.weights))] if group.block is None else group.weights
        self._activations = self._values.abs().amax(dim=0)
        self._largest = torch.stack([block.abs().amax(dim=0) for block in self._blocks()]).amax(dim=0)
        # Computed once: only the quantized product depends on the powers.
        self._exact = [self._values @ block.T for block in self._blocks()]

    def error(self, alpha: float, beta: float) -> float:
        """Return the relative error of the product with both factors in int8: ratio of root mean squares."""
        scale = self._activations**alpha * self._largest**-beta
        values, outputs = _rounded_values(self._values / scale), sum(len(weight) for weight in self._weights)
        squares = []
        for exact, block in zip(self._exact, self._blocks()):
            product = values @ _rounded_rows(block * scale).T
            # Weighted by the rows of the block: the sum over the blocks is the mean over the whole matrix.
            means = torch.stack([((product - exact) ** 2).mean(), (exact**2).mean()])
            squares.append(means * (len(block) / outputs))
        error, size = torch.stack(squares).sum(dim=0)
        return float(error**0.5 / size**0.5)

    def _blocks(self) -> Iterator[Tensor]:
        return (block for weight in self._weights for _, block in self._group.blocks(weight))


def _rounded_values(values: Tensor) -> Tensor:
    """Round values to int8 steps of their common range: `[tokens, in] -> [tokens, in]`, in the same dtype.

    The range need not include 0, and nothing is clamped.
    """
    low, high = values.aminmax()
    step = ((high - low) / (INT8_MAX - INT8_MIN)).clamp(min=EPS)
    offset = torch.round(-low / step) + INT8_MIN
    return values.div(step).add_(offset).round_().sub_(offset).mul_(step)


def _rounded_rows(weight: Tensor) -> Tensor:
    """Round symmetrically per row, without a lower limit of the step: `[rows, in] -> [rows, in]`, in the same dtype."""
    step = weight.abs().amax(dim=1, keepdim=True) / INT8_MAX
    return weight.div(step).round_().clamp_(-INT8_MAX, INT8_MAX).mul_(step)
