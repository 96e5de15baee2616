"""Stand-ins in plain torch for the NPU operators that vLLM-Ascend calls for W8A8 linears, the KV cache and attention.

Each has the name and arguments of its operator in torch_npu. They compute in float32 and round once, to the dtype of the
result; the operators of an NPU may sum in another order. An argument without a stand-in raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_int8(values: Tensor) -> Tensor:
    """Round half to even and saturate."""
    return values.round().clamp(-128, 127).to(torch.int8)


def npu_quantize(
    states: Tensor, scales: Tensor, zero_points: Tensor, dtype: torch.dtype, axis: int = 1, div_mode: bool = True
) -> Tensor:
    """Quantize with one scale per channel of the last axis; without `div_mode` the scales are factors."""
    if dtype != torch.qint8 or axis != -1 or div_mode:
        raise NotImplementedError(f"npu_quantize to {dtype} on axis {axis}, div_mode {div_mode}")
    return to_int8(states.float() * scales.float() + zero_points.float())


def npu_dynamic_quant(states: Tensor, *, dst_type: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """Quantize symmetrically with one scale per token."""
    if dst_type != torch.int8:
        raise NotImplementedError(f"npu_dynamic_quant to {dst_type}")
    scale = states.float().abs().amax(-1) / 127
    return to_int8(states.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]), scale


def npu_quant_matmul(
    states: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: torch.dtype,
) -> Tensor:
    """Multiply int8 states by an int8 weight `[I, O]`; an int32 bias is added before the scales, a float one after."""
    if scale.dtype == torch.int64:  # float16 models keep float32 scales in the low bits
        scale = scale.to(torch.int32).view(torch.float32)
    # Products of int8 sum to whole numbers, which float64 holds exactly and multiplies faster than int32 on a CPU.
    sums = states.double() @ weight.double()
    if bias is not None and bias.dtype == torch.int32:
        sums, bias = sums + bias, None
    out = sums.float() * scale.float()
    if pertoken_scale is not None:
        out = out * pertoken_scale.float()[..., None]
    return (out if bias is None else out + bias.float()).to(output_dtype)


def npu_scatter_pa_kv_cache(
    *, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor, cache_mode: str = ""
) -> None:
    """Write states `[T, H, D]` into the slots of caches `[B, S, H, D]` or, for C8, `[B, H, D/32, S, 32]`."""
    for states, cache in ((key, key_cache), (value, value_cache)):
        tokens_first = cache if cache.dim() == 4 else cache.permute(0, 3, 1, 2, 4)
        size = tokens_first.shape[1]
        slots = slot_mapping.long()
        tokens_first[slots // size, slots % size] = states.reshape(len(states), *tokens_first.shape[2:])


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Tensor:
    """Return softmax attention in float32 of one request: query `[Q, N, D]`, key and value `[K, H, D]`."""
    q, k, v = (states.float().transpose(0, 1) for states in (query, key, value))
    k, v = (states.repeat_interleave(len(q) // len(k), dim=0) for states in (k, v))
    scores = q @ k.transpose(1, 2) * scale
    if causal:
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
        scores = scores.masked_fill(ahead, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).to(query.dtype)


def cached(cache: Tensor, blocks: Tensor, length: int, heads: int, factors: Tensor | None) -> Tensor:
    """Return the states `[length, H, D]` of one request in float, those of an int8 cache by their scales `[H, 1, D]`."""
    picked = cache[blocks.long()]
    picked = picked.permute(0, 3, 1, 2, 4) if cache.dim() == 5 else picked
    states = picked.reshape(picked.shape[0] * picked.shape[1], heads, -1)[:length].float()
    return states if factors is None else states * factors.float().transpose(0, 1)


WITHOUT_EFFECT = ("atten_mask", "block_size", "inner_precise")
"""Arguments that say again what others say, or choose between fast and precise."""

MODES = ("antiquant_mode", "key_antiquant_mode", "value_antiquant_mode")


def npu_fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    input_layout: str,
    sparse_mode: int,
    actual_seq_lengths_kv: Sequence[int] | Tensor,
    actual_seq_lengths: Sequence[int] | Tensor | None = None,
    block_table: Tensor | None = None,
    key_antiquant_scale: Tensor | None = None,
    value_antiquant_scale: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend request by request: TND has end positions of requests in `query`, BNSD one token per request.

    `sparse_mode` is 3 for causal attention, 0 for none masked; a mode of 0 is for scales per channel.
    """
    if sparse_mode not in (0, 3) or input_layout not in ("TND", "BNSD"):
        raise NotImplementedError(f"npu_fused_infer_attention_score with {input_layout}, sparse_mode {sparse_mode}")
    unknown = {
        name for name, value in others.items() if name not in WITHOUT_EFFECT and not (name in MODES and value == 0)
    }
    if unknown:
        raise NotImplementedError(f"npu_fused_infer_attention_score with {sorted(unknown)}")
    tokens = query.squeeze(2) if input_layout == "BNSD" else query
    ends = range(1, len(tokens) + 1) if actual_seq_lengths is None else [int(end) for end in actual_seq_lengths]
    out, start, kv_start = torch.zeros_like(tokens), 0, 0
    for request, (end, length) in enumerate(zip(ends, actual_seq_lengths_kv)):
        if block_table is None:
            k, v = key[kv_start : int(length)], value[kv_start : int(length)]
            kv_start = int(length)
        else:
            k, v = (
                cached(cache, block_table[request], int(length), num_key_value_heads, factors)
                for cache, factors in ((key, key_antiquant_scale), (value, value_antiquant_scale))
            )
        out[start:end] = attention(tokens[start:end], k, v, scale, causal=sparse_mode == 3)
        start = end
    return out.reshape(query.shape), None


def npu_format_cast(weight: Tensor, layout: int) -> Tensor:
    """Leave a weight as it is: the layout of an NPU changes no value."""
    return weight
