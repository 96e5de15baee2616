"""Defines target vllm-ascend: W8A8 linears, and FA3's K and V scales for vLLM-Ascend's int8 KV cache (C8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fa3cli.exports.layout import C8
from fa3cli.exports.targets.mindie import refused_by_ascend
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal, Target

__all__ = ["VllmAscend", "kv_kernel_remarks"]

_HEAD_DIM = 32
_ROLES = {"k": "k_proj", "v": "v_proj"}


class VllmAscend(ModelSlim):
    """Like modelslim, but with one K and V scale per channel, in `k_proj` and `v_proj`; q stays float."""

    name = "vllm-ascend"
    attention_tensors = tuple(
        f"{linear}.kv_cache_{kind}" for linear in _ROLES.values() for kind in ("scale", "offset")
    )
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)
    attention_settings: Mapping[str, str] = {"kv_cache_type": C8, "kv_quant_type": C8}
    attention_value = C8

    def attention(self, tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
        """Return scales and offsets of K and V, `[H, 1] -> [H * head_dim]`: the head's scale repeated, and zeros."""
        stored = {}
        for role, linear in _ROLES.items():
            # One value per channel, so that the engine can split it as it splits the rows of the linear.
            scale = tensors[f"fa_{role}.scale"].flatten().repeat_interleave(head_dim)
            stored[f"{linear}.kv_cache_scale"] = scale
            stored[f"{linear}.kv_cache_offset"] = torch.zeros_like(scale)
        return stored

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under the float norm's names: vLLM-Ascend does not read `.module.` tensors."""
        return Target.norm(self, weight, bias)

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield why vLLM-Ascend cannot load the export."""
        yield from refused_by_ascend(selection)
        for attention in selection.attentions:
            missing = [
                linear for linear in _ROLES.values() if f"{attention}.{linear}.weight" not in selection.names
            ]
            if missing and selection.fa_layers:
                yield Refusal(
                    f"{attention} has no {', '.join(missing)}, under whose names vLLM-Ascend reads the KV scales",
                    "choose --no-fa for W8A8 alone, or another target",
                )
                return

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield which versions of vLLM-Ascend cannot load the export, or load it wrong."""
        if selection.dtype == "float32":
            yield (
                "float32: vLLM serves such a model in bfloat16 by default, which needs another form of deq_scale than "
                "this export's; serve it with --dtype float16, or quantize with --dtype bfloat16"
            )
        if selection.fa_layers:
            yield from kv_kernel_remarks(selection.geometry.head_dim, selection.dtype)
        if selection.partly_fa:
            yield "some layers stay without C8 scales: vLLM-Ascend up to 0.18 needs them in every layer"


def kv_kernel_remarks(head_dim: int | None, dtype: str | None) -> Iterator[str]:
    """Yield which versions of vLLM-Ascend have no int8 KV cache kernels for this head_dim and dtype."""
    if head_dim and head_dim % _HEAD_DIM:
        yield f"head_dim is {head_dim}: vLLM-Ascend supports C8 for multiples of {_HEAD_DIM} only, from 0.23 on"
    if dtype == "float16":
        yield "float16: vLLM-Ascend up to 0.18 casts the scales of C8 to bfloat16"
