"""Rounds the states of a patched attention module as engines do: int8 (FA3), fp8 (vLLM), int8 KV cache (C8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli.fa_quantizer import quantizer_of
from fa3cli.numerics.affine import INT8_MAX, INT8_MIN, fake_quantize

__all__ = ["SimulatedStates", "simulate_attention"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of an export's tensors by name."""

_FP8_MAX = 448.0


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


def simulate_attention(attention: nn.Module, name: str, shapes: Shapes) -> None:
    """Let an attention module compute like the engine whose tensors the export holds for it, if it holds any.

    `name` is the module's name in the export.
    """
    if f"{name}.fa_q.scale" in shapes:
        for role in "qkv":
            attention.add_module(f"fa_{role}", SimulatedStates(shapes[f"{name}.fa_{role}.scale"][0]))
        quantizer_of(attention).transform = partial(_int8, attention)
    elif f"{name}.q_scale" in shapes:
        for role in "qkv":
            shape = shapes[f"{name}.{role}_scale"]
            attention.register_buffer(f"{role}_scale", torch.empty(shape, device="meta", dtype=torch.float32))
        quantizer_of(attention).transform = partial(_fp8, attention)
    elif f"{name}.k_proj.kv_cache_scale" in shapes:
        for role in "kv":
            scale = torch.empty(shapes[f"{name}.{role}_proj.kv_cache_scale"], device="meta")
            attention.get_submodule(f"{role}_proj").register_buffer("kv_cache_scale", scale)
        attention.forward = partial(_prompt_and_decoding, attention, attention.forward)


def _int8(attention: nn.Module, states: Tensor, role: str) -> Tensor:
    rounded: Tensor = attention.get_submodule(f"fa_{role}")(states)
    return rounded


def _fp8(attention: nn.Module, states: Tensor, role: str) -> Tensor:
    """Return the states with the error of e4m3, with a scale per layer or per head: `[B, H, S, D] -> [B, H, S, D]`."""
    scale = attention.get_buffer(f"{role}_scale").flatten()
    if role == "q" and len(scale) > 1:
        # As vLLM: the query heads of one KV head share their largest scale.
        scale = scale.view(len(attention.get_buffer("k_scale")), -1).amax(1)
    scale = scale.repeat_interleave(states.shape[1] // len(scale))[:, None, None]
    levels = (states.float() / scale).clamp_(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
    return (levels.float() * scale).to(states.dtype)


def _cached(attention: nn.Module, states: Tensor, role: str) -> Tensor:
    """Return K or V as read from an int8 cache with a scale per channel: `[B, H, S, D] -> [B, H, S, D]`."""
    if role == "q":
        return states
    # In the dtype of the states, as vLLM-Ascend computes.
    scale = attention.get_submodule(f"{role}_proj").get_buffer("kv_cache_scale").to(states.dtype)
    scale = scale.view(-1, states.shape[-1])
    scale = scale.repeat_interleave(states.shape[1] // len(scale), dim=0)[:, None]
    return (states * (1 / scale)).round_().clamp_(INT8_MIN, INT8_MAX).mul_(scale)


def _prompt_and_decoding(attention: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Compute the first half of the positions with float K and V, as a prompt, and the others as decoded tokens.

    vLLM-Ascend reads the int8 cache only where it decodes; the K and V of the prompt are in that cache too.
    """
    quantizer = quantizer_of(attention)
    prompt = forward(*args, **kwargs)
    quantizer.transform = partial(_cached, attention)
    try:
        decoded = forward(*args, **kwargs)
    finally:
        quantizer.transform = None
    if isinstance(prompt, Tensor):
        return _joined(prompt, decoded)
    return (_joined(prompt[0], decoded[0]), *decoded[1:])


def _joined(prompt: Tensor, decoded: Tensor) -> Tensor:
    """Join the outputs `[B, S, C]` of both computations."""
    half = prompt.shape[1] // 2
    return torch.cat((prompt[:, :half], decoded[:, half:]), dim=1)
