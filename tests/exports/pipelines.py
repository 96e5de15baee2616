"""Writes a small export of a pipeline's transformer, with the module names of diffusers' Flux."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli.exports.companions import exported_config
from fa3cli.exports.layout import FA_TENSORS
from fa3cli.exports.target_export import TargetExport
from fa3cli.exports.targets import TARGETS
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear

__all__ = ["ATTENTIONS", "CONFIG", "NAMES", "QUANTIZED", "flux", "write_flux"]

HEADS, HEAD_DIM = 4, 8
WIDTH = HEADS * HEAD_DIM
CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.35.2",
    "attention_head_dim": HEAD_DIM,
    "in_channels": 16,
    "joint_attention_dim": 24,
    "num_attention_heads": HEADS,
    "num_layers": 2,
    "num_single_layers": 1,
}
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")
SINGLE = "single_transformer_blocks.0"
ATTENTIONS = [f"{block}.attn" for block in (*BLOCKS, SINGLE)]
_PROJECTIONS = {f"attn.{leaf}": (WIDTH, WIDTH) for leaf in ("to_q", "to_k", "to_v")}
_BLOCK = {
    "norm1.linear": (6 * WIDTH, WIDTH),
    **_PROJECTIONS,
    "attn.to_out.0": (WIDTH, WIDTH),
    "ff.net.0.proj": (48, WIDTH),
    "ff.net.2": (WIDTH, 48),
}
_SINGLE = {
    "norm.linear": (3 * WIDTH, WIDTH),
    "proj_mlp": (48, WIDTH),
    "proj_out": (WIDTH, 48 + WIDTH),
    **_PROJECTIONS,
}
_LINEARS = {
    "x_embedder": (WIDTH, 16),
    "context_embedder": (WIDTH, 24),
    **{f"{block}.{name}": shape for block in BLOCKS for name, shape in _BLOCK.items()},
    **{f"{SINGLE}.{name}": shape for name, shape in _SINGLE.items()},
    "norm_out.linear": (2 * WIDTH, WIDTH),
    "proj_out": (16, WIDTH),
}
QUANTIZED = [name for name in _LINEARS if "blocks" in name and "norm" not in name]


def flux(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Return float tensors in module order: a parameter without module, linears with bias, norms of q and k."""
    tensors = {"scale_shift_table": torch.randn(2, WIDTH)}
    for name, shape in _LINEARS.items():
        tensors |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
        if name.endswith("to_v"):
            attention = name.removesuffix(".to_v")
            tensors |= {f"{attention}.norm_{role}.weight": torch.ones(HEAD_DIM) for role in "qk"}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


NAMES = list(flux())


def write_flux(
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    *,
    quantized: Collection[str] = QUANTIZED,
    attentions: Collection[str] = ATTENTIONS,
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, object]]:
    """Write an export for mindie-sd as a run does; return its tensors, description and config."""
    target = TARGETS["mindie-sd"]
    export = TargetExport(target, folder, NAMES, (QUANTIZED, ATTENTIONS, ()))
    for name, tensor in flux(dtype).items():
        module = name.removesuffix(".weight")
        if module in quantized:
            export.add_linear(module, quantize_dynamic_linear(tensor, dtype), "W8A8_DYNAMIC")
        else:
            export.add(name, tensor)
    for attention in attentions:
        heads: dict[str, Tensor] = {}
        for role in "qkv":
            high = torch.rand(HEADS) + 1
            heads |= quantize_heads(role, -high, high, dtype)
        assert heads.keys() == set(FA_TENSORS)
        export.add_attention(attention, heads, HEAD_DIM)
    [file] = export.close(list(_LINEARS), exported_config(CONFIG, dtype))
    [description] = target.description_files
    documents = (json.loads((folder / name).read_text()) for name in (description, "config.json"))
    return load_file(file), *documents
