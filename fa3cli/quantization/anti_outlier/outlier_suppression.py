"""Implements m2 (Outlier Suppression+, without shift): searches a threshold; larger channels are scaled down to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.numerics.affine import asymmetric_offset, asymmetric_scale, fake_quantize
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale, largest_weights

__all__ = ["suppressed_scale"]

_CANDIDATES = 100
_OUTLYING = 3  # standard deviations


def suppressed_scale(group: GroupData) -> Tensor:
    """Return the scale `[in]` with the least output error of int8 inputs, shifted to their middle, on the first sample.

    Weights are not quantized. Without an outlier, the scale of m1 is returned.
    """
    spread = _spread(group.inputs.samples)
    # `not >`: NaN is no outlier either.
    if not spread.top > _OUTLYING * spread.deviation:
        return balanced_scale(group)
    values, biases = group.inputs.samples[0], group.biases
    exact = _output(group, values, biases)
    # The biases compensate the shift of the inputs: W x + b = W (x - shift) + (W shift + b).
    compensation = [
        torch.cat([linear(spread.shift, block) for _, block in group.blocks(weight)]) for weight in group.weights
    ]
    shifted_biases = [added if bias is None else bias + added for bias, added in zip(biases, compensation)]
    best, least = torch.ones_like(spread.shift), None
    for scale in _candidates(spread, largest_weights(group)):
        shifted = (values - spread.shift) / scale
        low, high = (bound.view(1) for bound in shifted.aminmax())
        step = asymmetric_scale(low, high)
        rounded = fake_quantize(shifted, step, asymmetric_offset(low, step))
        error = (_output(group, rounded, shifted_biases, scale) - exact).pow(2).mean()
        if least is None or error < least:
            best, least = scale, error
    return best


class _Spread(NamedTuple):
    """The spread of the inputs around the middle of their ranges."""

    shift: Tensor
    """`[in]`, the middle of each channel's range."""
    half: Tensor
    """`[in]`, the largest distance of each channel above its middle."""
    top: Tensor
    """The largest value above the middle, over all channels."""
    deviation: Tensor
    """The largest standard deviation of a sample."""


def _spread(samples: Sequence[Tensor]) -> _Spread:
    """Measure the samples in order, each around the middle of the ranges up to and including that sample."""
    low, high = samples[0].aminmax(dim=0)
    half, maxima, deviations = torch.full_like(low, -torch.inf), [], []
    for values in samples:
        low, high = torch.minimum(low, values.amin(dim=0)), torch.maximum(high, values.amax(dim=0))
        centered = values - (high + low) / 2
        half = torch.maximum(half, centered.amax(dim=0))
        maxima.append(centered.max())
        deviations.append(centered.std())
    return _Spread((high + low) / 2, half, torch.stack(maxima).max(), torch.stack(deviations).max())


def _candidates(spread: _Spread, weights: Tensor) -> Iterator[Tensor]:
    """Yield scales `[in]` for thresholds from the deviation up to the top; channels below the threshold get 1."""
    one = weights.new_ones(())
    for index in range(_CANDIDATES):
        threshold = spread.deviation + ((spread.top - spread.deviation) * index) / (_CANDIDATES - 1)
        ratio = spread.half / threshold
        yield torch.where(ratio > 1, (ratio * threshold).pow(0.5) / weights.pow(0.5), one)


def _output(group: GroupData, values: Tensor, biases: Sequence[Tensor | None], scale: Tensor | None = None) -> Tensor:
    """Return the compared output: attention without mask and rope for three linears, else the first linear's output.

    The weights are multiplied by `scale [in]`. q is split into heads as wide as all of k, and all of them use k: the
    reference's formula.
    """
    outputs = [
        torch.cat(
            [
                linear(values, block if scale is None else block * scale, None if bias is None else bias[rows])
                for rows, block in group.blocks(weight)
            ],
            dim=1,
        )
        for weight, bias in list(zip(group.weights, biases))[: 3 if len(group.weights) == 3 else 1]
    ]
    if len(outputs) != 3:
        return outputs[0]
    query, key, value = outputs
    width = key.shape[-1]
    query = query.view(len(values), -1, width).transpose(0, 1)
    attention = torch.softmax(query @ key.T / width**0.5, dim=-1)
    return attention @ value
