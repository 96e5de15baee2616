"""Writes exports to report on, with the report of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.exports.exports import Export, build_export

__all__ = ["LAYERS", "report_of", "sampled", "write_export", "write_heads", "write_report"]

LAYERS = 2
HASH = "0123456789abcdef" * 4


def report_of(layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a run's report as quantize and verify write it."""
    return {
        "identity": {
            "weights": HASH,
            "config": HASH[::-1],
            "settings": {
                "w_bit": 8,
                "disable_names": ["*.down_proj"],
                "disable_last_linear": True,
                "fa_amp": 1,
            },
            "dtype": "torch.float32",
            "device": "cpu",
            "threads": 2,
            "versions": {"fa3cli": "0.1.0", "torch": "2.13.0"},
        },
        "recipe": "qwen2.5-72b",
        "target": "modelslim",
        "result": {
            "files": ["config.json"],
            "bytes_written": 1,
            "samples": 12,
            "tokens": 345,
            "layers": layers,
            "warnings": ["MindIE stops at layers without FA3 tensors"],
        },
        "comparison": {
            "samples": 64,
            "samples_cut": 2,
            "tokens": 1021,
            "perplexity_float": 29.471,
            "perplexity_quantized": 29.484,
            "kl_divergence": 5.1e-4,
            "top1_agreement": 0.9838,
            "layer_errors": [0.01 * (number + 1) for number in range(len(layers))],
        },
    } | more


def layer(number: int, *, fa: bool = True, error: float | None = 0.02) -> dict[str, Any]:
    name = f"model.layers.{number}"
    return {
        "name": name,
        "quantized": 6,
        "float_linears": {f"{name}.mlp.down_proj": "disable_names"},
        "fa": fa,
        "fa_reason": None if fa else "fa_amp",
        "fa_score": 0.25 * (number + 1),
        "error": error,
    }


def sampled(number: int, timesteps: int, **changed: Any) -> dict[str, Any]:
    """Return a layer's record with peaks at each timestep: q's double over the timesteps, k's are equal, v has none."""
    peaks = [
        {"timestep": 1000.0 - 20 * step, "q": 2 ** (step / (timesteps - 1)), "k": 3.0} for step in range(timesteps)
    ]
    return layer(number) | {"timesteps": peaks} | changed


def write_report(folder: Path, report: Any) -> None:
    (folder / "fa3_report.json").write_text(json.dumps(report))


def write_export(folder: Path) -> Export:
    """Write a two-layer export, layer 1 without FA3, and its report."""
    export = build_export(folder)
    export.drop(*(name for name in export.tensors if name.startswith("model.layers.1.self_attn.fa_")))
    export.save()
    write_report(folder, report_of([layer(0, error=0.03), layer(1, fa=False)]))
    return export


def write_heads(folder: Path, layers: int, heads: int, kv_heads: int, head_dim: int = 128) -> None:
    """Write an export with the scales of a large model and tiny weights."""
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    description = {"model_quant_type": "W8A8", "fa_quant_type": "FAQuant"}
    for number in range(layers):
        name = f"model.layers.{number}"
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{name}.self_attn.{leaf}.weight"] = torch.zeros(1, 1, dtype=torch.int8)
            description[f"{name}.self_attn.{leaf}.weight"] = "W8A8"
        tensors[f"{name}.mlp.down_proj.weight"] = torch.zeros(1, 1, dtype=torch.bfloat16)
        description[f"{name}.mlp.down_proj.weight"] = "FLOAT"
        for role, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            tensors[f"{name}.self_attn.fa_{role}.scale"] = (torch.rand(count, 1) + 0.01).bfloat16()
            description[f"{name}.self_attn.fa_{role}.scale"] = "FAQuant"
    save_file(tensors, folder / "quant_model_weight_w8a8.safetensors")
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    write_config(folder, layers, heads, kv_heads, head_dim)
    write_report(folder, report_of([layer(number) for number in range(layers)]))


def write_config(folder: Path, layers: int, heads: int, kv_heads: int, head_dim: int) -> None:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
