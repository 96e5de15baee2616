"""Tests that the description lists all tensors in module order, as the guide's tool does."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest

from fa3cli.exports.description import describe as describe_for
from tests.golden import ABSENT, case_file, cases, module_order, quantized_linears

LINEAR = ("weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")
FA = ("fa_q.scale", "fa_k.scale", "fa_v.scale", "fa_q.offset", "fa_k.offset", "fa_v.offset")


def describe(names: list[str], quantized: Collection[str], attentions: Collection[str]) -> dict[str, str]:
    return describe_for(
        names,
        dict.fromkeys(quantized, "W8A8"),
        attentions,
        model_value="W8A8",
        tensors_of=lambda value: LINEAR,
        attention_settings={"fa_quant_type": "FAQuant"},
        attention_tensors=dict.fromkeys(FA, "FAQuant"),
    )


@ABSENT
@pytest.mark.parametrize("name", cases())
def test_the_description_equals_that_of_the_guides_tool(name: str) -> None:
    expected = json.loads(case_file(name, "quant_model_description_w8a8.json").read_text())
    names = module_order(cases()[name]["model"])
    made = describe(names, quantized_linears(name), cases()[name]["fa_layers_exported"])
    assert list(made.items()) == list(expected.items())


def test_the_float_bias_of_a_linear_follows_its_weight() -> None:
    made = describe(["a.q_proj.weight", "a.q_proj.bias", "a.o_proj.weight"], {"a.q_proj", "a.o_proj"}, ())
    assert list(made) == [
        "model_quant_type",
        "a.q_proj.weight",
        "a.q_proj.bias",
        *(f"a.q_proj.{leaf}" for leaf in LINEAR[1:]),
        *(f"a.o_proj.{leaf}" for leaf in LINEAR),
    ]
    assert made.pop("a.q_proj.bias") == "FLOAT"
    assert set(made.values()) == {"W8A8"}


def test_a_float_linear_keeps_weight_and_bias() -> None:
    made = describe(["q_proj.weight", "q_proj.bias"], (), ())
    assert made == {"model_quant_type": "W8A8", "q_proj.weight": "FLOAT", "q_proj.bias": "FLOAT"}


def test_both_names_of_a_tied_weight_are_listed() -> None:
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    assert describe(names, (), ()) == {"model_quant_type": "W8A8"} | dict.fromkeys(names, "FLOAT")


@pytest.mark.parametrize("attentions", [(), ("layers.1.self_attn",), ("layers.1.self_attn", "layers.10.self_attn")])
def test_fa_tensors_come_first_in_their_attention_only(attentions: tuple[str, ...]) -> None:
    layers = ("layers.1", "layers.10", "layers.2")
    names = [
        f"{layer}.{leaf}"
        for layer in layers
        for leaf in ("self_attn_norm.weight", "self_attn.q_proj.weight", "mlp.up_proj.weight")
    ]
    made = describe(names, (), attentions)
    assert list(made)[:1] == ["model_quant_type"]
    assert made.get("fa_quant_type") == ("FAQuant" if attentions else None)
    assert ("fa_quant_type" in made) == bool(attentions)  # absent, never null
    listed = [name for name in made if "." in name]
    for attention in attentions:
        first = listed.index(f"{attention}.q_proj.weight")
        assert listed[first - 6 : first] == [f"{attention}.{leaf}" for leaf in FA]
    assert [made[name] for name in listed].count("FAQuant") == 6 * len(attentions)
