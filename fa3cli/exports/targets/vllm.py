"""Target vllm: compressed-tensors, W8A8 linears in int8 and fp8 scales a head for q, k and v."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal, Target, Written

__all__ = ["Vllm"]

_INT8_MAX, _FP8_MAX = 127.0, 448.0


class Vllm(Target):
    """What vLLM on CUDA and transformers load through the compressed-tensors package."""

    name = "vllm"
    weight_file = "model.safetensors"
    linear_tensors = ("weight", "weight_scale", "input_scale", "input_zero_point")
    attention_tensors = ("q_scale", "k_scale", "v_scale")
    metadata: Mapping[str, str] = {"format": "pt"}  # transformers opens no file without it

    def linear(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weight, its scale, and the input's scale and zero point `[1]`, int8."""
        return {
            "weight": tensors["weight"],
            "weight_scale": tensors["weight_scale"],
            "input_scale": _short(tensors["input_scale"]),
            "input_zero_point": tensors["input_offset"].to(torch.int8),
        }

    def attention(self, tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
        """Return fp8 scales that reach as far as the int8 ones, in their dtype: `[H, 1] -> [H, 1, 1]`, `127 * scale / 448`."""
        return {f"{role}_scale": _fp8_scale(tensors[f"fa_{role}.scale"]) for role in "qkv"}

    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return the float model's config.json with compressed-tensors' `quantization_config`."""
        return {**config, "quantization_config": _quantization_config(written)}

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield what vLLM cannot load, or loads wrong without a word."""
        if not selection.quantized:
            yield Refusal("none of the model's linears would be int8", "quantize a model of linears")
        if selection.has_experts:
            yield Refusal(
                "a mixture of experts; vLLM takes int8 experts with inputs quantized at run time only",
                "choose another target",
            )
        if selection.head in selection.quantized:
            yield Refusal(
                f"{selection.head} in int8, and vLLM has float heads alone", "leave disable_last_linear on"
            )
        if selection.partly_fa:
            yield Refusal(
                "some layers would stay without q, k and v scales, and vLLM computes with 1.0 there without a word",
                "leave fa_amp at 0 and attention modules out of disable_names, or choose --no-fa",
            )
        for group in selection.half_float():
            yield Refusal(
                f"{group}; vLLM joins q, k, v and gate, up into one linear and refuses one that is half float",
                "name the whole group in disable_names, or choose improved numerics, which let whole groups fall back",
            )


def _fp8_scale(scale: Tensor) -> Tensor:
    return (scale.float() * _INT8_MAX / _FP8_MAX).to(scale.dtype).unsqueeze(-1)


def _short(scale: Tensor) -> Tensor:
    """Return a float32 scale with the 15 leading bits it has; one of half precision has fewer.

    vLLM's CUTLASS kernel computes the zero point anew from products of it, and truncates: they must be exact.
    """
    return (
        ((scale.view(torch.int32) + 0x100) & ~0x1FF).view(torch.float32)
        if scale.dtype == torch.float32
        else scale
    )


def _quantization_config(written: Written) -> dict[str, Any]:
    int8 = {"num_bits": 8, "type": "int", "dynamic": False}
    weights = {**int8, "symmetric": True, "strategy": "tensor" if written.mm_tensor else "channel"}
    inputs = {**int8, "symmetric": False, "strategy": "tensor"}
    heads = {"num_bits": 8, "type": "float", "strategy": "attn_head", "symmetric": True, "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    if written.attentions and len(written.attention_classes) == 1:
        # transformers loads q_scale for it; vLLM skips a group of one class whose name ends in Attention.
        groups["group_1"] = {
            "targets": [*written.attention_classes],
            "weights": None,
            "input_activations": heads,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(written.float_linears),
        "kv_cache_scheme": heads if written.attentions else None,
    }
