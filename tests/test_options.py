"""Tests that a function of a dataclass is called with its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import pytest

from fa3cli.errors import UsageError
from fa3cli.options import entries, takes


@dataclass(frozen=True)
class Meal:
    dish: str
    spices: Sequence[str] | None = None


@takes(Meal)
def cook(meal: Meal) -> tuple[str, ...]:
    """Return what goes into the pot."""
    return (meal.dish, *entries(meal.spices))


def test_a_function_takes_the_fields_of_its_dataclass() -> None:
    assert cook("rice", spices=["salt", "pepper"]) == ("rice", "salt", "pepper")
    assert list(signature(cook).parameters) == ["dish", "spices"]
    assert cook.__doc__ == "Return what goes into the pot."


def test_a_single_string_counts_as_one_entry() -> None:
    assert cook("rice", "salt") == ("rice", "salt")


@pytest.mark.parametrize(
    ("name", "hint"), [("spice", "did you mean spices?"), ("oven", "the options are dish, spices")]
)
def test_an_unknown_option_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option '{name}'") as caught:
        cook("rice", **{name: "x"})
    assert caught.value.hint == hint
