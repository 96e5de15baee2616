"""Settings: options win over the recipe, what isn't implemented is refused, names are matched as globs."""

from __future__ import annotations

from dataclasses import fields
from fnmatch import translate
from re import match

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import InvalidInputError, UnsupportedError, UsageError
from fa3cli.quantization.settings import QuantSettings, matching, resolve_settings

NAMES = [
    f"model.layers.{layer}.{leaf}"
    for layer in (0, 1, 10)
    for leaf in ("self_attn", "self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")
] + ["lm_head"]


def test_without_recipe_and_options_it_is_the_guides_tool() -> None:
    settings = resolve_settings(QuantSettings(), {})
    assert settings == QuantSettings(
        w_bit=8,
        a_bit=8,
        act_method=1,
        anti_method="none",
        disable_names=(),
        disable_level="L0",
        disable_last_linear=True,
        mm_tensor=False,
        fa=True,
        fa_amp=0,
    )


def test_an_option_replaces_the_recipes_value_lists_too() -> None:
    recipe = QuantSettings(disable_names=("*.down_proj",), fa_amp=5)
    settings = resolve_settings(recipe, {"disable_names": ("lm_head",), "fa": False})
    assert settings.disable_names == ("lm_head",)
    assert settings.fa is False and settings.fa_amp == 5
    assert resolve_settings(recipe, {"fa_amp": 0, "disable_names": ()}) == QuantSettings()


def test_an_option_not_given_keeps_the_recipes_value() -> None:
    recipe = QuantSettings(disable_names=("*.down_proj",), fa_amp=5, fa=False)
    assert resolve_settings(recipe, {field.name: None for field in fields(QuantSettings)}) == recipe


@pytest.mark.parametrize(
    ("name", "value", "supported"),
    [
        ("w_bit", 4, "8"),
        ("a_bit", 16, "8"),
        ("act_method", 2, "1"),
        ("anti_method", "m3", "none"),
        ("disable_level", "L5", "L0"),
        ("disable_level", "five", "L0"),
        ("disable_last_linear", False, "True"),
        ("mm_tensor", True, "False"),
        ("fa_score", "error", "reference"),
        ("numerics", "reference", "improved"),
        ("target", "vllm", "modelslim"),
    ],
)
def test_a_value_not_implemented_is_refused_with_those_that_are(
    name: str, value: object, supported: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"{name}={value}") as error:
        resolve_settings(QuantSettings(), {name: value})
    assert error.value.exit_code == 3
    assert supported in error.value.hint


def test_a_recipe_is_refused_like_an_option() -> None:
    with pytest.raises(UnsupportedError, match="act_method=3"):
        resolve_settings(QuantSettings(act_method=3), {})


def test_fa_amp_below_0_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="fa_amp is -1.*0 or more"):
        resolve_settings(QuantSettings(), {"fa_amp": -1})


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
def test_names_and_globs(patterns: list[str], expected: list[str]) -> None:
    assert matching(NAMES, patterns) == set(expected)


@given(patterns=st.lists(st.sampled_from([*NAMES, "*.q_proj", "model.layers.1*", "*.[01].*"]), max_size=4))
def test_several_patterns_select_what_each_does(patterns: list[str]) -> None:
    expected = {name for name in NAMES if any(match(translate(pattern), name) for pattern in patterns)}
    assert matching(NAMES, patterns) == expected


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match="'model.layers.0.mlp.down_prj' matches no") as error:
        matching(NAMES, ["lm_head", "model.layers.0.mlp.down_prj"])
    assert "model.layers.0.mlp.down_proj" in error.value.hint


def test_upper_case_is_another_name() -> None:
    with pytest.raises(InvalidInputError, match="LM_HEAD"):
        matching(NAMES, ["LM_HEAD"])


def test_a_pattern_like_no_name_has_no_hint() -> None:
    with pytest.raises(InvalidInputError) as error:
        matching(["abc"], ["zzzzzz"])
    assert error.value.hint is None
