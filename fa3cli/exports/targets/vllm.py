"""Defines target vllm: compressed-tensors with int8 W8A8 linears, and on request fp8 scales for q, k and v."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fa3cli.exports.layout import W8A8_DYNAMIC
from fa3cli.exports.targets.serving import Served, vllm
from fa3cli.exports.targets.target import Target, Written
from fa3cli.quantization.schemes import is_expert, mixture_of

__all__ = ["Vllm"]

# Experts have too many names to list, and vLLM looks for `gate_proj`, `up_proj` and `down_proj` of expert 0, also if they
# are published under other names.
_EXPERTS = r"re:.*\.experts\.\d+\..*"
_TOKEN_INPUTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_INT8_MAX, _FP8_MAX = 127.0, 448.0
# e4m3 rounds relatively: with a scale twice as large it rounds the same, and values that no sample had are not clipped.
_HEADROOM = 2.0


class Vllm(Target):
    """The form that vLLM on CUDA and transformers load with the compressed-tensors package."""

    name = "vllm"
    weight_file = "model.safetensors"
    linear_tensors = ("weight", "weight_scale", "input_scale", "input_zero_point")
    attention_tensors = ("q_scale", "k_scale", "v_scale")
    metadata: ClassVar[Mapping[str, str]] = {"format": "pt"}  # transformers refuses a file without it

    def __init__(self, kv_cache_scheme: str = "none") -> None:
        self.kv_cache_scheme = kv_cache_scheme

    @property
    def options(self) -> Mapping[str, str]:
        """The strategy of the fp8 scales."""
        return {"kv_cache_scheme": self.kv_cache_scheme}

    @property
    def stores_attention(self) -> bool:
        """Whether exports hold scales of q, k and v."""
        return self.kv_cache_scheme != "none"

    def served_dtype(self, dtype: str) -> str:
        """Return the dtype in which vLLM computes, unless it is started with `--dtype`: bfloat16 for float32."""
        return "bfloat16" if dtype == "float32" else dtype

    def linear(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight and its scale; for static inputs their scale, and their zero point, `[1]` int8."""
        stored = {"weight": tensors["weight"], "weight_scale": tensors["weight_scale"]}
        if "input_scale" not in tensors:
            return stored
        return stored | {
            "input_scale": _round_for_cutlass(tensors["input_scale"]),
            "input_zero_point": tensors["input_offset"].to(torch.int8),
        }

    def tensors_of(self, value: str) -> tuple[str, ...]:
        """Return the stored tensors of a quantized linear of this value."""
        return self.linear_tensors[:2] if value == W8A8_DYNAMIC else self.linear_tensors

    def attention(
        self, tensors: Mapping[str, Tensor], head_dim: int, channels: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return fp8 scales of the same dtype, `2 * 127 * scale / 448`: `[H, 1, 1]` per head, or `[1]` per layer."""
        if not self.stores_attention:
            return {}
        scales = {f"{role}_scale": _fp8_scale(tensors[f"fa_{role}.scale"]) for role in "qkv"}
        return scales if self.kv_cache_scheme == "attn_head" else {name: s.max().view(1) for name, s in scales.items()}

    def serve(self, export: Served) -> str:
        """Return vLLM's command."""
        return vllm(export)

    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return the float model's config.json with compressed-tensors' `quantization_config`."""
        return {**config, "quantization_config": _quantization_config(written, self.kv_cache_scheme)}


def _fp8_scale(scale: Tensor) -> Tensor:
    # In float32: in half precision, the product and the quotient would each be rounded.
    return (_HEADROOM * scale.float() * _INT8_MAX / _FP8_MAX).to(scale.dtype).unsqueeze(-1)


def _round_for_cutlass(scale: Tensor) -> Tensor:
    """Return a float32 scale rounded to 15 significant bits; float16 and bfloat16 have fewer.

    vLLM's CUTLASS kernel recomputes the zero point from products of the scale and truncates it: they must be exact.
    """
    # Adds half of the last kept bit, then clears the 9 bits below it.
    return ((scale.view(torch.int32) + 0x100) & ~0x1FF).view(torch.float32) if scale.dtype == torch.float32 else scale


def _targets(written: Written, dynamic: bool) -> list[str]:
    """Return the targets of a group: all linears, or the dynamic ones by name, which has precedence."""
    mixed = len({value == W8A8_DYNAMIC for value in written.linears.values()}) > 1
    if not mixed or not dynamic:
        return ["Linear"]
    names = [name for name, value in written.linears.items() if value == W8A8_DYNAMIC]
    experts = [_EXPERTS] if any(map(is_expert, names)) else []
    return [*experts, *(name for name in names if not is_expert(name))]


def _ignore(written: Written) -> list[str]:
    """Return the linears that stay float, by name; the experts of a layer by one pattern."""
    quantized = {mixture_of(name) for name in written.linears if is_expert(name)}
    mixtures = dict.fromkeys(mixture_of(name) for name in written.names if is_expert(name))
    left = [module for module in mixtures if module not in quantized]
    experts = [_EXPERTS] if left and not quantized else [_experts_of(module) for module in left]
    return [*experts, *(name for name in written.float_linears if not is_expert(name))]


def _experts_of(module: str) -> str:
    return rf"re:{re.escape(module)}\.experts\.\d+\..*"


def _quantization_config(written: Written, kv_cache_scheme: str) -> dict[str, Any]:
    int8 = {"num_bits": 8, "type": "int", "dynamic": False}
    weights = {**int8, "symmetric": True, "strategy": "tensor" if written.mm_tensor else "channel"}
    inputs = {**int8, "symmetric": False, "strategy": "tensor"}
    fp8 = {"num_bits": 8, "type": "float", "strategy": kv_cache_scheme, "symmetric": True, "dynamic": False}
    with_attention = bool(written.attentions) and kv_cache_scheme != "none"
    groups: dict[str, dict[str, Any]] = {}
    for dynamic in sorted({value == W8A8_DYNAMIC for value in written.linears.values()}):
        activations = _TOKEN_INPUTS if dynamic else inputs
        groups[f"group_{len(groups)}"] = {
            "targets": _targets(written, dynamic),
            "weights": weights,
            "input_activations": activations,
        }
    if with_attention and len(written.attention_classes) == 1:
        # For transformers, which loads q_scale only with this group; vLLM skips a group of one class ...Attention.
        groups[f"group_{len(groups)}"] = {
            "targets": [*written.attention_classes],
            "weights": None,
            "input_activations": fp8,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _ignore(written),
        "kv_cache_scheme": fp8 if with_attention else None,
    }
