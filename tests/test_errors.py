"""Tests the exit codes of errors, on which scripts rely."""

from __future__ import annotations

import pytest

from fa3cli import errors

CODES = {
    "Fa3Error": 5,
    "UsageError": 2,
    "UnsupportedError": 3,
    "ConflictError": 4,
    "InvalidInputError": 5,
    "MissingCapabilityError": 6,
    "StoppedError": 75,
}


def test_every_error_has_its_exit_code() -> None:
    kinds = {errors.Fa3Error, *errors.Fa3Error.__subclasses__()}
    assert {kind.__name__: kind.exit_code for kind in kinds} == CODES
    assert CODES.keys() <= set(errors.__all__)


@pytest.mark.parametrize("name", CODES)
def test_an_error_carries_a_message_and_a_hint(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("config.json: not found", hint="name another folder")
    assert isinstance(error, errors.Fa3Error)
    assert str(error) == "config.json: not found" and error.hint == "name another folder"
    assert kind("config.json: not found").hint is None


def test_brief_quotes_an_error_on_one_short_line() -> None:
    assert errors.brief(KeyError("a")) == "KeyError: 'a'"
    assert errors.brief(ValueError("two\n  lines\t.")) == "ValueError: two lines ."
    assert len(errors.brief(ValueError("x" * 1000))) == 300
