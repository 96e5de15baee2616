"""Simulates a quantized model in floats: computes linears and attention states like an engine does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from fa3cli.fa_quantizer import quantizer_of
from fa3cli.numerics.affine import fake_quantize, quantize
from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.dynamic_linear import token_scales

__all__ = ["SimulatedDynamicLinear", "SimulatedLinear", "simulate"]


class SimulatedLinear(nn.Module):
    """A W8A8 linear whose buffers have the names of the export's tensors; int8 products are summed in float32."""

    weight: Tensor
    input_scale: Tensor
    input_offset: Tensor
    quant_bias: Tensor
    deq_scale: Tensor

    def __init__(self, linear: nn.Linear, scale_shape: tuple[int, ...], deq_scale_dtype: torch.dtype) -> None:
        super().__init__()
        rows = linear.out_features
        floats = partial(torch.empty, device="meta", dtype=torch.float32)
        self.register_buffer("weight", torch.empty(rows, linear.in_features, device="meta", dtype=torch.int8))
        if linear.bias is not None:
            self.register_buffer("bias", floats(rows))  # in the export, but unused here: quant_bias includes it
        self.register_buffer("weight_scale", floats(scale_shape))
        self.register_buffer("weight_offset", floats(scale_shape))
        self.register_buffer("input_scale", floats(1))
        self.register_buffer("input_offset", floats(1))
        self.register_buffer("quant_bias", torch.empty(rows, device="meta", dtype=torch.int32))
        self.register_buffer("deq_scale", torch.empty(rows, device="meta", dtype=deq_scale_dtype))

    def forward(self, states: Tensor) -> Tensor:
        """Return `deq_scale * (int8(x) @ weight^T + quant_bias)`: `[..., in] -> [..., out]`."""
        values = quantize(states.float(), self.input_scale, self.input_offset)
        # Engines sum in int32. float32 holds sums up to 2^24 exactly, and rounds larger ones in the last bits.
        sums = nn.functional.linear(values, self.weight.float()) + self.quant_bias
        return (sums * unpack_deq_scale(self.deq_scale)).to(states.dtype)


class SimulatedDynamicLinear(nn.Module):
    """A W8A8 linear that quantizes its input at run time; int8 products are summed in float32."""

    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows = linear.out_features
        floats = partial(torch.empty, device="meta", dtype=torch.float32)
        self.register_buffer("weight", torch.empty(rows, linear.in_features, device="meta", dtype=torch.int8))
        self.register_buffer("bias", None if linear.bias is None else floats(rows))
        self.register_buffer("weight_scale", floats(rows, 1))
        self.register_buffer("weight_offset", floats(rows, 1))

    def forward(self, states: Tensor) -> Tensor:
        """Return `token_scale * weight_scale * (int8(x) @ weight^T) + bias`: `[..., in] -> [..., out]`.

        Equals npu_dynamic_quant, then npu_quant_matmul with a pertoken_scale.
        """
        scales = token_scales(states)
        output = nn.functional.linear(quantize(states.float(), scales), self.weight.float())
        output.mul_(self.weight_scale.flatten()).mul_(scales)
        return (output if self.bias is None else output.add_(self.bias)).to(states.dtype)


class SimulatedStates(nn.Module):
    """Adds int8's error to one role's states; `scale [H, 1]`, `offset [H, 1]` as exported."""

    scale: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.empty(heads, 1, device="meta"))
        self.register_buffer("offset", torch.empty(heads, 1, device="meta", dtype=torch.int8))

    def forward(self, states: Tensor) -> Tensor:
        """Return the states with int8's error: `[B, H, S, D] -> [B, H, S, D]`."""
        # [H, 1] -> [H, 1, 1]. The offset is not used: it is 0, and no kernel subtracts it.
        return fake_quantize(states.float(), self.scale[:, :, None]).to(states.dtype)


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


def simulate(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    deq_scale_dtype: torch.dtype,
    published: Callable[[str], str] = lambda path: path,
) -> None:
    """Make a model compute like an export whose tensors have these `shapes`.

    Linears and norms with quantized tensors in the export are replaced; patched attentions get a transform. `published`
    returns the name in the export of the module at a path.
    """
    # A list: the loop replaces modules.
    for path, module in list(model.named_modules()):
        name = published(path)
        # First, since a static linear has a weight_scale as well.
        if isinstance(module, nn.Linear) and f"{name}.deq_scale" in shapes:
            scale_shape = shapes[f"{name}.weight_scale"]
            _replace(model, path, SimulatedLinear(module, scale_shape, deq_scale_dtype))
        elif isinstance(module, nn.Linear) and f"{name}.weight_scale" in shapes:
            _replace(model, path, SimulatedDynamicLinear(module))
        elif f"{name}.module.weight" in shapes:
            _replace(model, path, SimulatedNorm(module))
        elif hasattr(module, "fa_quantizer") and f"{name}.fa_q.scale" in shapes:
            for role in "qkv":
                module.add_module(f"fa_{role}", SimulatedStates(shapes[f"{name}.fa_{role}.scale"][0]))
            quantizer_of(module).transform = partial(_simulated_states, module)


def _simulated_states(attention: nn.Module, states: Tensor, role: str) -> Tensor:
    simulated: Tensor = attention.get_submodule(f"fa_{role}")(states)
    return simulated


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    # nn.Module.set_submodule exists only since torch 2.5.
    setattr(model.get_submodule(parent), leaf, module)
