"""Tests settings: options override the recipe; invalid and unsupported values are refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.quantization.settings import QuantSettings, resolve_settings


def test_without_recipe_and_options_the_guides_defaults_are_used() -> None:
    resolved = resolve_settings({}, {})
    assert resolved.values == QuantSettings(
        w_bit=8,
        a_bit=8,
        act_method=1,
        anti_method="none",
        disable_names=(),
        disable_level="L0",
        disable_last_linear=True,
        pr=1.0,
        w_sym=True,
        mm_tensor=False,
        fa=True,
        fa_amp=0,
        fa_score="reference",
        numerics="improved",
    )
    assert set(resolved.origins.values()) == {"default"}


def test_an_option_replaces_the_value_of_the_recipe() -> None:
    recipe = {"disable_names": ("*.down_proj",), "fa_amp": 5}
    resolved = resolve_settings(recipe, {"disable_names": ("lm_head",), "fa": False}, "recipe mine")
    assert resolved.values == QuantSettings(disable_names=("lm_head",), fa=False, fa_amp=5)
    origins = {name: origin for name, origin in resolved.origins.items() if origin != "default"}
    assert origins == {"disable_names": "option", "fa": "option", "fa_amp": "recipe mine"}
    assert resolve_settings(recipe, {"fa_amp": 0, "disable_names": ()}).values == QuantSettings()


def test_an_omitted_option_keeps_the_value_of_the_recipe() -> None:
    recipe = {"disable_names": ("*.down_proj",), "fa_amp": 5, "fa": False}
    none = {field.name: None for field in fields(QuantSettings)}
    assert resolve_settings(recipe, none).values == QuantSettings(**recipe)


ACCEPTED = {
    "act_method": (1, 2, 3),
    "anti_method": ("none", "m1", "m2", "m3", "m4", "m5", "m6"),
    "disable_level": ("L0", "L1", "L5", "L10", "L99"),
    "disable_last_linear": (True, False),
    "mm_tensor": (True, False),
    "fa_score": ("reference", "error"),
    "numerics": ("improved", "reference"),
    "fa_amp": (0, 1, 99),
}


@given(data=st.data())
def test_every_option_of_the_guide_is_accepted(data: st.DataObject) -> None:
    chosen = {name: data.draw(st.sampled_from(values)) for name, values in ACCEPTED.items()}
    values = resolve_settings({}, chosen).values
    assert {name: getattr(values, name) for name in chosen} == chosen
    assert values.level == int(chosen["disable_level"][1:])
    assert values.reference == (chosen["numerics"] == "reference")


@pytest.mark.parametrize(
    ("name", "value", "supported"),
    [
        ("w_bit", 4, "8"),
        ("a_bit", 16, "8"),
        ("act_method", 0, "1, 2, 3"),
        ("anti_method", "m7", "m6"),
        ("w_sym", False, "True"),
        ("pr", 0.9, "1.0"),
        ("fa_score", "best", "reference, error"),
        ("numerics", "exact", "improved, reference"),
    ],
)
def test_an_unsupported_value_is_refused_with_the_supported_ones(name: str, value: object, supported: str) -> None:
    for recipe, options in (({}, {name: value}), ({name: value}, {})):
        with pytest.raises(UnsupportedError, match=f"{name}={value}") as error:
            resolve_settings(recipe, options)
        assert error.value.exit_code == 3 and supported in error.value.hint


@pytest.mark.parametrize("level", ["L05", "L-1", "5", "L", "l5", "L5 ", "five", "L1.5", ""])
def test_a_malformed_level_is_a_usage_error(level: str) -> None:
    with pytest.raises(UsageError, match=r"disable_level is .*without leading zeros") as error:
        resolve_settings({}, {"disable_level": level})
    assert repr(level) in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fa_amp", -1, "0 or more"),
        ("fa_amp", "5", "a whole number"),
        ("fa_amp", True, "a whole number"),
        ("act_method", 1.0, "a whole number"),
        ("mm_tensor", 1, "true or false"),
        ("pr", "1", "a number"),
        ("anti_method", None, ""),
        ("disable_names", "*.down_proj", "several texts"),
        ("disable_names", (1,), "module names or globs"),
        ("disable_level", 5, "a text"),
    ],
)
def test_an_invalid_value_is_a_usage_error(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=name) as error:
        resolve_settings({name: value}, {})
    assert words in str(error.value)
