"""Writes random Llama models and samples for the benchmarks: weights are noise, shapes and code are real."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["make_llama", "make_samples"]


def make_llama(
    folder: Path, *, layers: int, hidden: int = 1024, dtype: torch.dtype = torch.float32, shard: str = "200MB"
) -> Path:
    """Write a Llama of `layers` layers (51 MB each at 1024 wide in float32) and return its folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        vocab_size=2048,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def make_samples(file: Path, *, samples: int, tokens: int) -> Path:
    """Write `samples` lines of random token ids."""
    ids = torch.randint(0, 2048, (samples, tokens), generator=torch.Generator().manual_seed(1)).tolist()
    file.write_text("".join(json.dumps({"input_ids": line}) + "\n" for line in ids))
    return file
