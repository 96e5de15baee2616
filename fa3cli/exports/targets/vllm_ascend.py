"""Defines target vllm-ascend: W8A8 linears, and FA3's K and V scales for vLLM-Ascend's int8 KV cache (C8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fa3cli.exports.layout import C8, MODEL_ENTRIES
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.serving import Served, vllm_ascend
from fa3cli.exports.targets.target import Target
from fa3cli.numerics.affine import symmetric_scale

__all__ = ["VllmAscend"]

_ROLES = {"k": "k_proj", "v": "v_proj"}


class VllmAscend(ModelSlim):
    """Like modelslim, but with one K and V scale per channel, in `k_proj` and `v_proj`; q stays float."""

    name = "vllm-ascend"
    attention_tensors = tuple(f"{linear}.kv_cache_{kind}" for linear in _ROLES.values() for kind in ("scale", "offset"))
    # vLLM-Ascend refuses `.module.` tensors.
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)
    # vllm_ascend/quantization/methods/w8a8_static.py, as of 0.26rc1.
    multiplies_inputs = True
    attention_settings: ClassVar[Mapping[str, str]] = {"kv_cache_type": C8, "kv_quant_type": C8}
    attention_value = C8
    # As ascendv1, whose exports vLLM-Ascend documents.
    model_entries = MODEL_ENTRIES

    def attention(
        self, tensors: Mapping[str, Tensor], head_dim: int, channels: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return scales and offsets of K and V, `[H * head_dim]`: one scale per channel, and zeros.

        Without `channels` (a calibration of an earlier version), the head's scale is repeated, `[H, 1] -> [H * head_dim]`.
        """
        stored = {}
        for role, linear in _ROLES.items():
            # One value per channel, so that the engine can split it as it splits the rows of the linear.
            scale = tensors[f"fa_{role}.scale"].flatten().repeat_interleave(head_dim)
            # Of another size if the model repeats the heads of K before they are observed.
            if role in channels and channels[role].shape[1] == head_dim:
                # A channel's own largest value: most channels of K are far smaller than the largest of their head.
                scale = symmetric_scale(channels[role], channels[role]).flatten().to(scale)
            stored[f"{linear}.kv_cache_scale"] = scale
            # Zeros: FA3 is symmetric, but the layout of C8 has offsets.
            stored[f"{linear}.kv_cache_offset"] = torch.zeros_like(scale)
        return stored

    def serve(self, export: Served) -> str:
        """Return vLLM-Ascend's command."""
        return vllm_ascend(export)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under the float norm's names: vLLM-Ascend does not read `.module.` tensors."""
        return Target.norm(self, weight, bias)
