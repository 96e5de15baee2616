"""Tests that a header is read from a complete regular file only, and that errors give the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fa3cli.files.tensors import DTYPES, Entry, open_tensors, read_header, stored_dtype
from tests.special_files import put


def write(file: Path, header: bytes, data: bytes = b"") -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize(("stored", "name"), DTYPES.items())
def test_dtypes_have_the_names_of_safetensors(tmp_path: Path, stored: str, name: str) -> None:
    dtype: torch.dtype = getattr(torch, name)
    save_file({"a": torch.zeros(2, dtype=dtype)}, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors")[0]["a"].dtype == stored == stored_dtype(dtype)


def test_dtypes_that_are_never_written_have_no_name() -> None:
    assert stored_dtype(torch.uint8) is None and stored_dtype(torch.float8_e4m3fn) is None


def test_a_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int8)}, file, {"format": "pt"})
    entries, metadata = read_header(file)
    assert metadata == {"format": "pt"} and set(entries) == {"a", "b"}
    begin = entries["a"].begin
    assert entries["a"] == Entry("F32", (2, 3), begin, begin + 24)
    assert file.read_bytes()[begin : begin + 4] == b"\0\0\x80\x3f"


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}}',
        json.dumps({"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}}).encode(),
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "x": ' + b"[" * 110 + b"]" * 110 + b"}}",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        b"[" * 100_000,
        b"",
    ],
)
def test_an_invalid_header_is_refused(header: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", header)
    with pytest.raises(ValueError):
        read_header(tmp_path / "a.safetensors")


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((10**18).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="too large"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["pipe", "endless device", "folder", "link to itself"])
def test_a_special_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    put(kind, tmp_path / "a.safetensors")
    for read in (open_tensors, read_header):
        with pytest.raises(OSError):
            read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "gone", "x" * 300])
def test_a_name_without_a_file_is_an_oserror(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        open_tensors(tmp_path / name)
