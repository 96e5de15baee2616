"""Makes selections for targets: the linears and attention modules of a small decoder."""

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
    """Return a selection that every engine loads: all linears and both attention modules are quantized."""
    complete = {
        "config": CONFIG,
        "dtype": "bfloat16",
        "names": [f"{name}.weight" for name in LINEARS],
        "linears": LINEARS,
        "quantized": dict.fromkeys(LINEARS, "W8A8"),
        "attentions": [f"{layer}.self_attn" for layer in LAYERS],
        "fa_layers": 2,
    }
    return Selection(**complete | changes)


def without(*leaves: str) -> dict[str, str]:
    """Return the quantized linears when those with these leaf names stay float."""
    return {name: "W8A8" for name in LINEARS if name.rpartition(".")[2] not in leaves}
