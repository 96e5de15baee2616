"""Computes W8A8 linears in floats; the buffers have the names of an export's tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fa3cli.numerics.affine import quantize
from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.dynamic_linear import token_scales

__all__ = ["SimulatedDynamicLinear", "SimulatedLinear", "SimulatedZeroPointLinear"]

# Engines sum int8 products in int32. float32 holds sums up to 2^24 exactly, and rounds larger ones in the last bits.


class SimulatedLinear(nn.Module):
    """A W8A8 linear of Ascend engines; with `reciprocal`, of one that multiplies inputs with the rounded 1 / input_scale."""

    weight: Tensor
    input_scale: Tensor
    input_offset: Tensor
    quant_bias: Tensor
    deq_scale: Tensor

    def __init__(self, linear: nn.Linear, deq_scale_dtype: torch.dtype, *, reciprocal: bool = False) -> None:
        super().__init__()
        self._reciprocal = reciprocal
        rows = linear.out_features
        _add_weight(self, linear)
        _add_floats(self, input_scale=(1,), input_offset=(1,))
        # The float bias, which the export holds too, is part of quant_bias.
        self.register_buffer("quant_bias", torch.empty(rows, device="meta", dtype=torch.int32))
        self.register_buffer("deq_scale", torch.empty(rows, device="meta", dtype=deq_scale_dtype))

    def forward(self, states: Tensor) -> Tensor:
        """Return `deq_scale * (int8(x) @ weight^T + quant_bias)`: `[..., in] -> [..., out]`."""
        scale = self.input_scale
        if self._reciprocal:
            scale = 1 / (1 / scale.to(states.dtype)).float()
        values = quantize(states.float(), scale, self.input_offset)
        sums = nn.functional.linear(values, self.weight.float()) + self.quant_bias
        return (sums * unpack_deq_scale(self.deq_scale)).to(states.dtype)


class SimulatedZeroPointLinear(nn.Module):
    """A W8A8 linear of compressed-tensors with a stored input scale."""

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        _add_weight(self, linear)
        _add_floats(self, weight_scale=scale_shape, input_scale=(1,))
        self.register_buffer("input_zero_point", torch.empty(1, device="meta", dtype=torch.int8))
        _add_bias(self, linear)

    def forward(self, states: Tensor) -> Tensor:
        """Return `input_scale * weight_scale * ((int8(x) - zero_point) @ weight^T) + bias`: `[..., in] -> [..., out]`."""
        zero_point = self.input_zero_point.float()
        values = quantize(states.float(), self.input_scale, zero_point).sub_(zero_point)
        output = nn.functional.linear(values, self.weight.float()).mul_(self.weight_scale.flatten() * self.input_scale)
        return (output if self.bias is None else output.add_(self.bias)).to(states.dtype)


class SimulatedDynamicLinear(nn.Module):
    """A W8A8 linear whose input is quantized at run time, per token."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        _add_weight(self, linear)
        _add_floats(self, weight_scale=scale_shape)
        _add_bias(self, linear)

    def forward(self, states: Tensor) -> Tensor:
        """Return `token_scale * weight_scale * (int8(x) @ weight^T) + bias`: `[..., in] -> [..., out]`.

        Equals npu_dynamic_quant, then npu_quant_matmul with a pertoken_scale.
        """
        scales = token_scales(states)
        output = nn.functional.linear(quantize(states.float(), scales), self.weight.float())
        output.mul_(self.weight_scale.flatten()).mul_(scales)
        return (output if self.bias is None else output.add_(self.bias)).to(states.dtype)


def _add_weight(module: nn.Module, linear: nn.Linear) -> None:
    shape = (linear.out_features, linear.in_features)
    module.register_buffer("weight", torch.empty(shape, device="meta", dtype=torch.int8))


def _add_bias(module: nn.Module, linear: nn.Linear) -> None:
    bias = None if linear.bias is None else torch.empty(linear.out_features, device="meta")
    module.register_buffer("bias", bias)


def _add_floats(module: nn.Module, **shapes: tuple[int, ...]) -> None:
    """Add float32 buffers: `deq_scale` and scales keep their stored precision in every model."""
    for name, shape in shapes.items():
        module.register_buffer(name, torch.empty(shape, device="meta", dtype=torch.float32))
