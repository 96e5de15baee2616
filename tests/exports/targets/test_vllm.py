"""Tests which linears the quantization_config of compressed-tensors names."""

from __future__ import annotations

from typing import Any

import pytest

from fa3cli.exports.compressed_tensors import group_of, matches
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.target import Written

ATTENTION = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
DENSE = "model.layers.0.mlp.shared.up_proj"
EXPERTS = [
    f"model.layers.{layer}.mlp.experts.{expert}.w1" for layer in range(2) for expert in range(11)
]  # published under a name that vLLM does not ask for


def config_of(linears: dict[str, str], floats: list[str]) -> dict[str, Any]:
    names = [f"{name}.weight" for name in [*linears, *floats]]
    return TARGETS["vllm"].config({}, Written(names, linears, floats, [], []))["quantization_config"]


def scheme_of(config: dict[str, Any], module: str) -> str:
    """Return the scheme that vLLM gives a module."""
    if any(matches(pattern, module) for pattern in config["ignore"]):
        return "float"
    group = group_of(config, module)
    return "dynamic" if group and group["input_activations"]["dynamic"] else "static"


def test_dynamic_linears_beside_experts_are_named() -> None:
    linears = {**dict.fromkeys(ATTENTION, "W8A8"), **dict.fromkeys([DENSE, *EXPERTS], "W8A8_DYNAMIC")}
    config = config_of(linears, ["model.layers.0.mlp.gate"])
    assert scheme_of(config, ATTENTION[0]) == "static"
    assert scheme_of(config, DENSE) == "dynamic"
    assert scheme_of(config, "model.layers.1.mlp.gate") == "static"
    assert scheme_of(config, "model.layers.0.mlp.gate") == "float"
    # vLLM asks for these names of every mixture.
    for leaf in ("gate_proj", "up_proj", "down_proj"):
        assert scheme_of(config, f"model.layers.1.mlp.experts.0.{leaf}") == "dynamic"
    assert len(config["config_groups"]["group_1"]["targets"]) == 2


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_float_experts_are_ignored_by_one_pattern_per_layer_or_for_all(layers: tuple[int, ...]) -> None:
    left = [name for name in EXPERTS if int(name.split(".")[2]) in layers]
    quantized = {name: "W8A8_DYNAMIC" for name in EXPERTS if name not in left}
    config = config_of(dict.fromkeys(ATTENTION, "W8A8") | quantized, left)
    assert len(config["ignore"]) == 1
    for layer in range(2):
        found = scheme_of(config, f"model.layers.{layer}.mlp.experts.0.gate_proj")
        assert found == ("float" if layer in layers else "dynamic")


def test_experts_of_one_tensor_are_ignored() -> None:
    names = [f"{ATTENTION[0]}.weight", "model.layers.0.mlp.experts.gate_up_proj"]
    written = Written(names, dict.fromkeys(ATTENTION[:1], "W8A8"), [], [], [])
    config = TARGETS["vllm"].config({}, written)["quantization_config"]
    assert scheme_of(config, "model.layers.0.mlp.experts.0.gate_proj") == "float"
