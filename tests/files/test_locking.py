"""Tests that the exclusive lock removes leftovers, but no file that another process is writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.files import locking
from fa3cli.files.locking import exclusive_lock, sweep
from fa3cli.files.writing import new_folder, write_file

LEFT = ".fa3-0123456789abcdef.tmp"


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / LEFT).mkdir()
    (tmp_path / LEFT / "file").touch()
    outside = tmp_path / "outside"
    outside.touch()
    (tmp_path / LEFT.replace("0123", "4567")).symlink_to(outside)
    others = [".fa3-x.tmp", ".fa3", "x" + LEFT, LEFT + "x"]
    for name in others:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert entries(tmp_path) == sorted([*others, "outside"])


def test_files_that_are_being_written_are_kept(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as made:
        (made / "inside").touch()
        write_file(tmp_path / "file", b"")
        sweep(tmp_path)
        assert (made / "inside").exists()
    assert entries(tmp_path) == ["file", "folder"]


def test_only_one_holder_can_change_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LEFT).touch()
    with exclusive_lock(tmp_path):
        write_file(tmp_path / "a", b"")
        assert entries(tmp_path) == ["a"]
        monkeypatch.setattr(locking, "_LOCK_TIMEOUT", 0.05)
        with pytest.raises(OSError, match="another process"), exclusive_lock(tmp_path):
            pass
    with exclusive_lock(tmp_path):
        pass
