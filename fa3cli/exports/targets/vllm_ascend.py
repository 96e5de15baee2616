"""Target vllm-ascend: W8A8 linears, and the K and V scales of FA3 as vLLM-Ascend's int8 KV cache (C8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fa3cli.exports.layout import C8
from fa3cli.exports.targets.mindie import refused_by_ascend
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal, Target

__all__ = ["VllmAscend", "kernel_remarks"]

_HEAD_DIM = 32
_ROLES = {"k": "k_proj", "v": "v_proj"}


class VllmAscend(ModelSlim):
    """Like modelslim, but K and V scales sit on `k_proj` and `v_proj`, one a channel, and q keeps its floats."""

    name = "vllm-ascend"
    attention_tensors = tuple(
        f"{linear}.kv_cache_{kind}" for linear in _ROLES.values() for kind in ("scale", "offset")
    )
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)
    attention_settings: Mapping[str, str] = {"kv_cache_type": C8, "kv_quant_type": C8}
    attention_value = C8

    def attention(self, tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
        """Return scale and offset of K and V, `[H, 1] -> [H * head_dim]`, each head's value repeated; the offset is 0."""
        stored = {}
        for role, linear in _ROLES.items():
            scale = tensors[f"fa_{role}.scale"].flatten().repeat_interleave(head_dim)
            stored[f"{linear}.kv_cache_scale"] = scale
            stored[f"{linear}.kv_cache_offset"] = torch.zeros_like(scale)
        return stored

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under its own names: vLLM-Ascend knows no `.module.` tensors."""
        return Target.norm(self, weight, bias)

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield what stops vLLM-Ascend at load."""
        yield from refused_by_ascend(selection)
        for attention in selection.attentions:
            missing = [
                linear for linear in _ROLES.values() if f"{attention}.{linear}.weight" not in selection.names
            ]
            if missing and selection.fa_layers:
                yield Refusal(
                    f"{attention} has no {', '.join(missing)}, whose names vLLM-Ascend's KV scales are stored under",
                    "choose --no-fa for W8A8 alone, or another target",
                )
                return

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield which versions of vLLM-Ascend cannot load this, or not as it is meant."""
        if selection.dtype == "float32":
            yield (
                "float32: vLLM serves such a model in bfloat16 by itself, whose deq_scale has another form than this "
                "export's; serve it with --dtype float16, or quantize with --dtype bfloat16"
            )
        if selection.fa_layers:
            yield from kernel_remarks(selection.geometry.head_dim, selection.dtype)
        if selection.partly_fa:
            yield "some layers stay without C8 scales: vLLM-Ascend up to 0.18 needs them in every layer"


def kernel_remarks(head_dim: int | None, dtype: str | None) -> Iterator[str]:
    """Yield which heads and dtypes some versions of vLLM-Ascend have no kernels of the int8 KV cache for."""
    if head_dim and head_dim % _HEAD_DIM:
        yield f"head_dim is {head_dim}: vLLM-Ascend takes C8 for multiples of {_HEAD_DIM} only, from 0.23 on"
    if dtype == "float16":
        yield "float16: vLLM-Ascend up to 0.18 casts the scales of C8 to bfloat16"
