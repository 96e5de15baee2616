"""m5: channels whose range stands out are scaled down towards the others (CBQ); weights play no part."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.quantization.anti_outlier.group import GroupData

__all__ = ["outlier_scale"]

_REACH = 1.5  # of the distance between the quantiles, as a box plot has it
_POWER = 0.7


def outlier_scale(group: GroupData) -> Tensor:
    """Return `(extreme / largest ordinary extreme)^0.7` of outlier channels and 1 of the others, `[in]`."""
    high, low = group.inputs.high, group.inputs.low
    # What holds of maxima holds of minima upside down.
    scale = torch.maximum(_factors(high, _threshold(high)), _factors(-low, _threshold(-low)))
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0).to(high.dtype)


def _threshold(extremes: Tensor) -> Tensor:
    """Return the extreme `[in]` above which a channel is an outlier."""
    quantiles = torch.quantile(extremes.float(), torch.tensor([0.2, 0.8], device=extremes.device))
    threshold = quantiles[1] + _REACH * (quantiles[1] - quantiles[0])
    outlying = extremes[extremes > threshold].sort(descending=True).values
    return threshold if len(outlying) < 2 else _edge(outlying)


def _edge(outlying: Tensor) -> Tensor:
    """Return the first value, falling, behind the widest gap, the variance of those behind taken off it."""
    rest = [outlying[index:] for index in range(1, len(outlying))]
    variances = torch.stack([values.var() if len(values) > 1 else values.new_zeros(()) for values in rest])
    gaps = (outlying[:-1] - outlying[1:]).abs() - variances
    return outlying[gaps.argmax() + 1]


def _factors(extremes: Tensor, threshold: Tensor) -> Tensor:
    """Return the factor of each channel by one of its ends, float32 `[in]`."""
    outlying, factors = extremes > threshold, torch.ones_like(extremes, dtype=torch.float32)
    ordinary = extremes[~outlying].max()
    if ordinary == 0:
        return factors
    # On these channels alone: torch's powers of many and of few values differ in the last bit.
    factors[outlying] = (extremes.float()[outlying] / ordinary) ** _POWER
    return factors
