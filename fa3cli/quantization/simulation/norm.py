"""Computes the norm of an export with AntiOutlier's tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SimulatedNorm"]


class SimulatedNorm(nn.Module):
    """A norm as AntiOutlier exports it: the smoothed norm with a bias, and a second weight and bias for engines."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        # Read before the bias is registered below: a norm class with a bias adds the bias itself.
        self.module, self._adds_bias = norm, hasattr(norm, "bias")
        weight = norm.get_parameter("weight")
        if getattr(norm, "bias", None) is None:
            norm._parameters.pop("bias", None)  # a norm class with an optional bias, built without it
            norm.register_buffer("bias", torch.empty(weight.shape, device="meta"))
        self.register_buffer("bias", torch.empty(weight.shape, device="meta"))
        self.register_buffer("weight", torch.empty_like(weight))

    def forward(self, states: Tensor) -> Tensor:
        """Return the norm of the states plus its bias: `[..., in] -> [..., in]`."""
        normed: Tensor = self.module(states)
        return normed if self._adds_bias else (normed + self.module.get_buffer("bias")).to(states.dtype)
