"""Tests that every fault of a document is a ValueError, never a RecursionError or a later error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.files.documents import parse_json, parse_toml, read_json, typed

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@dataclass(frozen=True)
class Pair:
    name: str
    numbers: tuple[int, ...]
    inner: Pair | None = None


@given(VALUES)
def test_written_json_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json("\ufeff" + json.dumps(value, ensure_ascii=False)) == value


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        parse_json(text)
    except ValueError:
        pass


@pytest.mark.parametrize("depth", [101, 2_000, 100_000])
@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(depth: int, opening: str, closing: str) -> None:
    for text in (opening * depth, opening * depth + "1" + closing * depth):
        with pytest.raises(ValueError):
            parse_json(text)


def test_nesting_below_the_limit_is_accepted() -> None:
    assert parse_json("[" * 99 + "]" * 99)


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\udc00": 1}', r'[["a\ud800b"]]', "9" * 5_000])
def test_values_that_cannot_be_written_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_repeated_key_is_refused_if_keys_must_be_unique() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' occurs twice"):
        parse_json('{"a": 1, "a": 2}', unique=True)


@pytest.mark.parametrize(
    "text", ["a =", "a = " + "[" * 2_000, "a = " + "[" * 300 + "]" * 300, "a = " + "9" * 5_000, "\xff"]
)
def test_broken_toml_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_toml(text.encode("latin-1"))


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_data_is_converted_to_the_requested_type() -> None:
    data = {"name": "a", "numbers": [1, 2], "inner": {"name": "b", "numbers": []}}
    assert typed(data, Pair) == Pair("a", (1, 2), Pair("b", ()))


@pytest.mark.parametrize("data", [7, {"name": "a"}, {"name": 7, "numbers": []}, {"name": "a", "numbers": [None]}])
def test_data_of_a_wrong_type_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"Expected|missing"):
        typed(data, Pair)


def test_an_unknown_key_is_refused_only_on_request() -> None:
    data = {"name": "a", "numbers": [1], "inner": {"name": "b", "numbers": [], "nam": 1}}
    assert typed(data, Pair).inner == Pair("b", ())
    with pytest.raises(ValueError, match=r"unknown key 'nam', expected name - at `\$\.inner`"):
        typed(data, Pair, unknown=False)


@pytest.mark.parametrize("text", [str(2**1023), f'{{"a": [{-(10**400)}]}}'])
def test_a_number_too_wide_for_a_float_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than 1023 bits"):
        parse_json(text)
    assert parse_json(str(2**1023 - 1)) == 2**1023 - 1 and float(2**1023 - 1)


def test_a_wide_number_in_toml_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1023 bits"):
        parse_toml(b"a = 0x" + b"f" * 5000)
