"""Turns a float model into one that computes like the engine of an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fa3cli.quantization.schemes import MIX
from fa3cli.quantization.simulation.attention import Shapes, simulate_attention
from fa3cli.quantization.simulation.linears import SimulatedDynamicLinear, SimulatedLinear, SimulatedZeroPointLinear
from fa3cli.quantization.simulation.norm import SimulatedNorm

__all__ = ["simulate"]


def simulate(
    model: nn.Module,
    shapes: Shapes,
    deq_scale_dtype: torch.dtype,
    published: Callable[[str], str] = lambda path: path,
    values: Mapping[str, str] | None = None,
) -> None:
    """Make a model compute like an export whose tensors have these `shapes` and, in its description, these `values`.

    Linears and norms with quantized tensors in the export are replaced; patched attentions get a transform. `published`
    returns the name in the export of the module at a path.
    """
    # A list: the loop replaces modules.
    for path, module in list(model.named_modules()):
        name = published(path)
        if isinstance(module, nn.Linear):
            per_token = (values or {}).get(f"{name}.weight") == MIX.value
            if linear := _simulated_linear(module, name, shapes, deq_scale_dtype, per_token=per_token):
                _replace(model, path, linear)
        elif f"{name}.module.weight" in shapes:
            _replace(model, path, SimulatedNorm(module))
    for path, module in model.named_modules():
        if hasattr(module, "fa_quantizer"):
            simulate_attention(module, published(path), shapes)


def _simulated_linear(
    linear: nn.Linear, name: str, shapes: Shapes, deq_scale_dtype: torch.dtype, *, per_token: bool
) -> nn.Module | None:
    """Return the quantized linear of an export; None if the linear is float there."""
    scale_shape = shapes.get(f"{name}.weight_scale", ())
    if f"{name}.deq_scale" in shapes and not per_token:
        return SimulatedLinear(linear, deq_scale_dtype)
    if f"{name}.input_zero_point" in shapes:
        return SimulatedZeroPointLinear(linear, scale_shape)
    return SimulatedDynamicLinear(linear, scale_shape) if scale_shape else None


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    # nn.Module.set_submodule exists only since torch 2.5.
    setattr(model.get_submodule(parent), leaf, module)
