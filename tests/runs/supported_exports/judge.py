"""Judges an export without fa3's code: as numbers, and as a float model that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["described", "problems"]

IDS = torch.arange(8, 24)[None]
# Of the norm of a token's float logits; int8 weights of tiny random models change them by up to about 5 %. The median of
# the tokens counts: a router of random weights may choose another expert for single tokens after the smallest change.
_LOGITS = 0.1


def described(export: Path) -> Counter[str]:
    """How many linears and other weights have each value."""
    return Counter(value for name, value in _description(export).items() if name.endswith(".weight"))


def problems(export: Path, source: Path, scratch: Path) -> Iterator[str]:
    """Yield what is wrong with an export of the float model in `source`."""
    values, tensors, floats = _description(export), _tensors(export), _tensors(source)
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if name not in values:
            yield f"{name} is not described"
        elif values[name] == "FLOAT":
            made[name] = tensor
        elif leaf == "weight" and values[name].startswith("W8A8"):
            made[name] = tensor.float() * tensors[f"{module}.weight_scale"].float()
            yield from _linear_problems(module, values[name], tensors, floats)
        elif leaf == "scale" and tensor.dim() == 2:
            yield from _scale_problems(name, tensors)
    for name, tensor in floats.items():
        if name not in made:
            yield f"{name} is missing"
        elif made[name].shape != tensor.shape:
            yield f"{name} has shape {list(made[name].shape)}, not {list(tensor.shape)}"
        elif values[name] == "FLOAT" and not torch.equal(made[name], tensor):
            yield f"{name} is float and differs"
    if others := made.keys() - floats.keys():
        yield f"{min(others)} is not in the float model"
    yield from _loaded_problems(made, floats, source, scratch)


def _linear_problems(module: str, value: str, tensors: dict[str, Tensor], floats: dict[str, Tensor]) -> Iterator[str]:
    """Recompute a linear's tensors from the formulas of the format."""
    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"].float()
    float_weight = floats.get(f"{module}.weight")
    if float_weight is None or float_weight.shape != weight.shape:
        return  # told by the caller
    if weight.dtype != torch.int8 or scale.shape != (len(weight), 1):
        yield f"{module} has {weight.dtype} weights with scales {list(scale.shape)}"
        return
    error = (weight.float() * scale - float_weight.float()).abs()
    if not (error <= 0.501 * scale).all():
        yield f"{module} differs from its float weight by more than half a step"
    if value == "W8A8_DYNAMIC":
        return
    step, offset = (tensors[f"{module}.input_{leaf}"].float() for leaf in ("scale", "offset"))
    product = (step * scale).flatten()
    packed = tensors[f"{module}.deq_scale"]
    found = packed.to(torch.int32).view(torch.float32) if packed.dtype == torch.int64 else packed
    torch_close = torch.allclose(found, product, rtol=1e-5)
    bias = floats.get(f"{module}.bias")
    own = torch.zeros(len(weight)) if bias is None else bias.double() / product.double()
    expected = own.double() - weight.double().sum(1) * offset.double()
    if not torch_close:
        yield f"{module}.deq_scale is not input_scale * weight_scale"
    if not ((tensors[f"{module}.quant_bias"].double() - expected).abs() <= 1 + 1e-6 * expected.abs()).all():
        yield f"{module}.quant_bias is not bias / deq_scale - rowsum * input_offset"


def _scale_problems(name: str, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Check one of the scales of q, k and v: one per head, and k's heads divide q's."""
    scale, attention = tensors[name], name.rpartition(".fa_")[0]
    heads = {role: tensors[f"{attention}.fa_{role}.scale"].shape[0] for role in "qkv"}
    if scale.shape[1] != 1 or not (scale > 0).all():
        yield f"{name} is {list(scale.shape)} with values from {scale.min():.3g}"
    if heads["k"] != heads["v"] or heads["q"] % heads["k"]:
        yield f"{attention} has scales for {heads} heads"


@torch.no_grad()
def _loaded_problems(made: dict[str, Tensor], floats: dict[str, Tensor], source: Path, scratch: Path) -> Iterator[str]:
    """Load the dequantized tensors with transformers into the model that was not patched."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(source, scratch, ignore=shutil.ignore_patterns("*.safetensors*"))
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, scratch / "model.safetensors", _HEADER)
    expected = AutoModelForCausalLM.from_pretrained(source).eval()
    found, notes = AutoModelForCausalLM.from_pretrained(scratch, output_loading_info=True)
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if notes.get(kind):
            yield f"transformers reports {kind}: {min(map(str, notes[kind]))}"
    exact, quantized = (model.eval()(input_ids=IDS).logits.double() for model in (expected, found))
    error = ((quantized - exact).norm(dim=-1) / exact.norm(dim=-1)).median()
    if not error < _LOGITS:
        yield f"the logits of half of the tokens differ by {error:.1%} or more in the dequantized model"


_HEADER = {"format": "pt"}


def _description(export: Path) -> dict[str, Any]:
    read = json.loads((export / "quant_model_description.json").read_text())
    return {name: value for name, value in read.items() if "." in name}


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
