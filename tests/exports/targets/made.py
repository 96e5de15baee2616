"""What targets are asked about: a small decoder's linears and attention modules."""

from __future__ import annotations

from typing import Any

from fa3cli.exports.targets.selection import Selection

GROUPS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
LAYERS = [f"model.layers.{index}" for index in range(2)]
LINEARS = [f"{layer}.{part}.{leaf}" for layer in LAYERS for part, leaves in GROUPS.items() for leaf in leaves]
CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def selection(**changes: Any) -> Selection:
    """Every linear and both attention modules quantized, of a model every engine takes."""
    whole = {
        "config": CONFIG,
        "dtype": "bfloat16",
        "names": [f"{name}.weight" for name in LINEARS],
        "linears": LINEARS,
        "quantized": frozenset(LINEARS),
        "attentions": [f"{layer}.self_attn" for layer in LAYERS],
        "fa_layers": 2,
    }
    return Selection(**whole | changes)


def without(*leaves: str) -> frozenset[str]:
    """The linears that are quantized when those of these names are not."""
    return frozenset(name for name in LINEARS if name.rpartition(".")[2] not in leaves)
