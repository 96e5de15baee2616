"""Implements m5 (CBQ): scales channels with outlier ranges down towards the others, by activations only."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.quantization.anti_outlier.group import GroupData

__all__ = ["outlier_scale"]

_REACH = 1.5  # times the distance between the quantiles, like the whiskers of a box plot
_POWER = 0.7


def outlier_scale(group: GroupData) -> Tensor:
    """Return `(extreme / largest ordinary extreme)^0.7` for outlier channels and 1 for the others, `[in]`."""
    high, low = group.inputs.high, group.inputs.low
    # Minima are treated symmetrically.
    scale = torch.maximum(_factors(high, _threshold(high)), _factors(-low, _threshold(-low)))
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0).to(high.dtype)


def _threshold(extremes: Tensor) -> Tensor:
    """Return the extreme `[in]` above which a channel is an outlier."""
    # torch.quantile does not support half precision.
    quantiles = torch.quantile(extremes.float(), torch.tensor([0.2, 0.8], device=extremes.device))
    threshold = quantiles[1] + _REACH * (quantiles[1] - quantiles[0])
    outlying = extremes[extremes > threshold].sort(descending=True).values
    return threshold if len(outlying) < 2 else _edge(outlying)


def _edge(outlying: Tensor) -> Tensor:
    """Return the value after the widest gap of a descending list; the variance of the values after a gap reduces it."""
    rest = [outlying[index:] for index in range(1, len(outlying))]
    variances = torch.stack([values.var() if len(values) > 1 else values.new_zeros(()) for values in rest])
    gaps = (outlying[:-1] - outlying[1:]).abs() - variances
    return outlying[gaps.argmax() + 1]


def _factors(extremes: Tensor, threshold: Tensor) -> Tensor:
    """Return the factor of each channel for its maxima (or negated minima), float32 `[in]`."""
    outlying, factors = extremes > threshold, torch.ones_like(extremes, dtype=torch.float32)
    ordinary = extremes[~outlying].max()
    if ordinary == 0:
        return factors
    # Computed only on outlier channels: torch's power differs in the last bit between long and short tensors.
    factors[outlying] = (extremes.float()[outlying] / ordinary) ** _POWER
    return factors
