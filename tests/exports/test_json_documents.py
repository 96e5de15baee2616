from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fa3cli.exports.json_documents import read_document


def test_a_valid_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"one": 1}')
    document = read_document(tmp_path, "a.json")
    assert (document.data, document.problem, document.raw) == ({"one": 1}, None, b'{"one": 1}')


def test_a_missing_document_is_a_problem(tmp_path: Path) -> None:
    document = read_document(tmp_path, "a.json")
    assert (document.raw, document.data, document.problem) == (None, None, "is missing")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"[1]", "json list"),
        (b"{", "not valid json"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        (b"\xff", "not valid json"),
        (b'{"a":' * 10000, "not valid json"),
    ],
)
def test_a_broken_document_is_a_problem(raw: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    document = read_document(tmp_path, "a.json")
    assert document.data is None and problem in document.problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40))
def test_reading_never_raises(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    document = read_document(tmp_path, "a.json")
    assert (document.data is None) == (document.problem is not None)
