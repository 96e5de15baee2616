"""Tests which scheme each linear gets."""

from __future__ import annotations

from fa3cli.quantization.schemes import DYNAMIC, SCHEMES, STATIC, schemes_of

DENSE = ["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"]
EXPERT = "layers.1.mlp.experts.0.down_proj"


def test_experts_are_dynamic_by_default() -> None:
    assert schemes_of([*DENSE, EXPERT], "w8a8", ()) == {**dict.fromkeys(DENSE, STATIC), EXPERT: DYNAMIC}
    assert schemes_of([EXPERT], "w8a8-mix", ()) == {EXPERT: DYNAMIC}


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = (("*.mlp.*", "w8a8-dynamic"), ("*.down_proj", "w8a8-mix"))
    found = schemes_of([*DENSE, EXPERT], "w8a8", patterns)
    assert [scheme.name for scheme in found.values()] == ["w8a8", "w8a8-mix", "w8a8-mix"]


def test_values_of_the_description() -> None:
    assert [scheme.value for scheme in SCHEMES.values()] == ["W8A8", "W8A8_DYNAMIC", "W8A8_MIX"]
