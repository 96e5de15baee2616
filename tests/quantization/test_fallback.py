"""Tests which modules stay float: by name, by range_param, by fa_amp, and with their fused group."""

from __future__ import annotations

from fnmatch import translate
from re import match

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import InvalidInputError
from fa3cli.quantization.fallback import (
    fall_back_attentions,
    fall_back_linears,
    fused_groups,
    matching,
    whole_groups,
)

NAMES = [
    f"model.layers.{layer}.{leaf}"
    for layer in (0, 1, 10)
    for leaf in ("self_attn", "self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")
] + ["lm_head"]

scored = st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0]), max_size=12)


@given(scores=scored, count=st.integers(0, 15))
def test_the_attentions_with_the_lowest_scores_fall_back(scores: list[float], count: int) -> None:
    modules = {f"layers.{index}.self_attn": score for index, score in enumerate(scores)}
    order = list(modules)
    chosen = fall_back_attentions(modules, count)
    assert len(chosen) == min(count, len(modules))
    for inside in chosen:
        for outside in modules.keys() - chosen:
            assert (modules[inside], order.index(inside)) < (modules[outside], order.index(outside))


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "c"), (2, "ac"), (3, "acd"), (4, "abcd"), (99, "abcd")])
def test_ties_are_in_module_order_not_by_name(count: int, expected: str) -> None:
    assert fall_back_attentions({"c": 0.5, "a": 0.5, "d": 0.9, "b": 1.0}, count) == frozenset(expected)


# ---- by name


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["lm_head"], ["lm_head"]),
        (["*.down_proj"], [name for name in NAMES if name.endswith("down_proj")]),
        (["model.layers.1.*"], [name for name in NAMES if ".1." in name]),
        (["model.layers.?.self_attn"], ["model.layers.0.self_attn", "model.layers.1.self_attn"]),
        (["lm_head", "*gate*", "lm_*"], [name for name in NAMES if "gate" in name] + ["lm_head"]),
        (["*"], NAMES),
    ],
)
def test_names_and_globs_select_modules(patterns: list[str], expected: list[str]) -> None:
    assert matching(NAMES, patterns) == set(expected)


@given(patterns=st.lists(st.sampled_from([*NAMES, "*.q_proj", "model.layers.1*", "*.[01].*"]), max_size=4))
def test_several_patterns_select_the_union_of_their_matches(patterns: list[str]) -> None:
    expected = {name for name in NAMES if any(match(translate(pattern), name) for pattern in patterns)}
    assert matching(NAMES, patterns) == expected


def test_a_pattern_without_a_match_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match="'model.layers.0.mlp.down_prj' matches no") as error:
        matching(NAMES, ["lm_head", "model.layers.0.mlp.down_prj"])
    assert "model.layers.0.mlp.down_proj" in error.value.hint


def test_patterns_are_case_sensitive() -> None:
    with pytest.raises(InvalidInputError, match="LM_HEAD"):
        matching(NAMES, ["LM_HEAD"])


def test_a_pattern_unlike_all_names_has_no_hint() -> None:
    with pytest.raises(InvalidInputError) as error:
        matching(["abc"], ["zzzzzz"])
    assert error.value.hint is None


# ---- by range_param


@given(scores=scored, count=st.integers(0, 15))
def test_the_linears_with_the_widest_ranges_fall_back(scores: list[float], count: int) -> None:
    linears = {f"layers.{index}.fc": score for index, score in enumerate(scores)}
    order = list(linears)
    chosen = fall_back_linears(linears, count)
    assert len(chosen) == min(count, len(linears))
    for inside in chosen:
        for outside in linears.keys() - chosen:
            assert (-linears[inside], order.index(inside)) < (-linears[outside], order.index(outside))


# ---- fused groups

GROUPED = [f"layers.{layer}.{leaf}" for layer in (0, 1) for leaf in ("attn.q_proj", "attn.k_proj", "attn.v_proj")] + [
    "layers.0.mlp.up_proj",
    "layers.0.mlp.down_proj",
    "layers.1.mlp.gate_proj",
    "layers.1.mlp.up_proj",
]


def test_a_fused_group_has_one_parent_and_several_linears() -> None:
    assert list(fused_groups(GROUPED)) == [
        {f"layers.0.attn.{role}_proj" for role in "qkv"},
        {f"layers.1.attn.{role}_proj" for role in "qkv"},
        {"layers.1.mlp.gate_proj", "layers.1.mlp.up_proj"},
    ]


@given(fallen=st.sets(st.sampled_from(GROUPED)))
def test_whole_groups_complete_the_split_groups_and_add_nothing_else(fallen: set[str]) -> None:
    found = whole_groups(fallen, GROUPED)
    assert fallen <= found
    assert all(group <= found or not group & found for group in fused_groups(GROUPED))
    assert all(any(name in group and group & fallen for group in fused_groups(GROUPED)) for name in found - fallen)
