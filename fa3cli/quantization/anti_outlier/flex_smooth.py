"""m6: the two powers of SmoothQuant searched for each group, inputs and weights quantized (Flex Smooth)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fa3cli.numerics.affine import EPS, INT8_MAX, INT8_MIN
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.smooth_quant import largest_activations, largest_weights, power_ratio

__all__ = ["flexible_scale"]

_POWERS = [round(0.05 * step, 2) for step in range(21)]


def flexible_scale(group: GroupData) -> Tensor:
    """Return `max|x|^alpha / max|W|^beta` with the best powers, `[in]`; heads that share a source their largest."""
    alpha, beta = _best_powers(torch.cat(group.inputs.samples), torch.cat(list(group.weights)))
    activations, weights = largest_activations(group), largest_weights(group)
    if group.repeats == 1:
        return power_ratio(activations, weights, alpha, beta)
    shared = [each.view(group.heads, group.repeats, -1).amax(dim=1) for each in (activations, weights)]
    scale = power_ratio(*shared, alpha, beta)
    return scale.unsqueeze(1).expand(-1, group.repeats, -1).reshape(-1)


def _best_powers(values: Tensor, weight: Tensor) -> tuple[float, float]:
    """Search alpha with beta = 1 - alpha, then beta; the last of equals wins.

    Where the first error is NaN, as a row of zeros makes it, nothing is better, and 0, 0 smooths nothing: so does the
    reference.
    """
    exact = values @ weight.T
    alpha, beta, least = 0.0, 0.0, math.inf
    for candidate in _POWERS:
        error = _error(values, weight, exact, candidate, 1 - candidate)
        if candidate == _POWERS[0] or error <= least:
            alpha, least = candidate, error
    for candidate in _POWERS:
        error = _error(values, weight, exact, alpha, candidate)
        if error <= least:
            beta, least = candidate, error
    return alpha, beta


def _error(values: Tensor, weight: Tensor, exact: Tensor, alpha: float, beta: float) -> float:
    """Return the error of the product, by its size, with both factors int8: root mean squares."""
    scale = values.abs().amax(dim=0) ** alpha * weight.abs().amax(dim=0) ** -beta
    product = _rounded_values(values / scale) @ _rounded_rows(weight * scale).T
    return (((product - exact) ** 2).mean() ** 0.5 / (exact**2).mean() ** 0.5).item()


def _rounded_values(values: Tensor) -> Tensor:
    """Round in one range for all, which need not hold 0 and does not clamp."""
    low, high = values.aminmax()
    step = ((high - low) / (INT8_MAX - INT8_MIN)).clamp(min=EPS)
    offset = torch.round(-low / step) + INT8_MIN
    return values.div(step).add_(offset).round_().sub_(offset).mul_(step)


def _rounded_rows(weight: Tensor) -> Tensor:
    """Round symmetrically by rows, without a least step."""
    step = weight.abs().amax(dim=1, keepdim=True) / INT8_MAX
    return weight.div(step).round_().clamp_(-INT8_MAX, INT8_MAX).mul_(step)
