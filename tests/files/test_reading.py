"""Tests that only regular files of bounded size are read; other files neither block nor fill the memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fa3cli.files.reading import read_bytes


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "file") == read_bytes(tmp_path / "link") == b"bytes"


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", limit=5) == b"12345"
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_bytes(tmp_path / "file", limit=4)


def test_a_sparse_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 8 MiB"):
        read_bytes(tmp_path / "sparse")


def test_a_pipe_without_a_writer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")


def test_a_link_to_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path / "zero")


def test_a_file_of_reported_size_0_is_limited_by_its_content() -> None:
    """Files of /proc have a size of 0."""
    assert read_bytes(Path("/proc/self/status"))
    with pytest.raises(OSError, match="larger"):
        read_bytes(Path("/proc/self/status"), limit=10)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_an_impossible_file_name_is_an_oserror(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="not a file name"):
        read_bytes(tmp_path / name)


def test_a_folder_and_a_missing_file_have_their_own_errors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a folder"):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "missing")
