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
    *,
    reciprocal: bool = False,
) -> None:
    """Make a model compute like an export whose tensors have these `shapes` and, in its description, these `values`.

    Linears and norms with quantized tensors in the export are replaced; patched attentions get a transform. `published`
    returns the name in the export of the module at a path. `reciprocal`: see `SimulatedLinear`.
    """
    # A list: the loop replaces modules.
    for path, module in list(model.named_modules()):
        name = published(path)
        if isinstance(module, nn.Linear):
            if f"{name}.deq_scale" in shapes and (values or {}).get(f"{name}.weight") != MIX.value:
                _replace(model, path, SimulatedLinear(module, deq_scale_dtype, reciprocal=reciprocal))
            elif scale_shape := shapes.get(f"{name}.weight_scale"):
                static = f"{name}.input_zero_point" in shapes
                kind = SimulatedZeroPointLinear if static else SimulatedDynamicLinear
                _replace(model, path, kind(module, scale_shape))
        elif f"{name}.module.weight" in shapes:
            _replace(model, path, SimulatedNorm(module))
    for path, module in model.named_modules():
        if hasattr(module, "fa_quantizer"):
            simulate_attention(module, published(path), shapes)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    # nn.Module.set_submodule exists only since torch 2.5.
    setattr(model.get_submodule(parent), leaf, module)
