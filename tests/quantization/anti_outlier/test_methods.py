"""Tests the table of methods: what each method smooths, and which data its rule gets."""

from __future__ import annotations

import pytest

from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.settings import QuantSettings, resolve_settings

NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
LINEARS = {"self_attn.v_proj": ("self_attn.o_proj",), "mlp.up_proj": ("mlp.down_proj",)}


@pytest.mark.parametrize("name", ["m1", "m2", "m3", "m4", "m5", "m6"])
def test_groups_are_norms_and_for_m4_and_m6_also_linears(name: str) -> None:
    groups = METHODS[name].groups
    assert {group.source: group.linears for group in groups} == (
        {**NORMS, **LINEARS} if name in ("m4", "m6") else NORMS
    )
    # A linear is multiplied by its norm's scale before it is divided by its own.
    assert [group.source for group in groups[:2]] == list(NORMS)


def test_all_but_m6_wrap_the_norms() -> None:
    assert {name for name, method in METHODS.items() if not method.wraps_norms} == {"m6"}


def test_m3_uses_the_first_sample_and_other_methods_use_all() -> None:
    needed = {name: [method.samples(count) for count in (0, 1, 50)] for name, method in METHODS.items()}
    assert needed.pop("m3") == [0, 1, 1]
    assert all(counts == [0, 1, 50] for counts in needed.values())


def test_only_searches_keep_samples() -> None:
    kept = {name: min(method.keep, 1000) for name, method in METHODS.items()}
    assert kept == {"m1": 0, "m2": 1000, "m3": 1, "m4": 0, "m5": 0, "m6": 1000}


def test_every_method_has_its_own_rule_and_can_be_requested() -> None:
    assert len({method.rule for method in METHODS.values()}) == len(METHODS) == 6
    for name in METHODS:
        assert resolve_settings({}, {"anti_method": name}).values.anti_method == name
    assert QuantSettings().anti_method not in METHODS
