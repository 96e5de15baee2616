"""Tests the layer, order and short forms of names."""

from __future__ import annotations

import pytest

from fa3cli.report.names import layer_of, module_order, number_ranges, relative_name, starred_numbers


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.experts.7.up_proj", "model.layers.3"),
        ("transformer.h.0", "transformer.h.0"),
        ("single_transformer_blocks.12.attn.fa_q", "single_transformer_blocks.12"),
        ("lm_head", None),
        ("", None),
    ],
)
def test_the_layer_is_the_name_up_to_its_first_number(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer


def test_numbers_in_names_are_sorted_by_value() -> None:
    names = ["a.10.b", "a.9.b", "a.b", "a.9"]
    assert sorted(names, key=module_order) == ["a.b", "a.9", "a.9.b", "a.10.b"]


def test_names_have_short_forms() -> None:
    assert relative_name("model.layers.3.mlp.up_proj", "model.layers.3") == "mlp.up_proj"
    assert starred_numbers("mlp.experts.12.up_proj") == "mlp.experts.*.up_proj"
    assert number_ranges([7, 0, 2, 1, 9, 8]) == "0–2, 7–9"
    assert number_ranges([]) == ""
