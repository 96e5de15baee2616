"""Tests that a file has its old or its new content, and that the next writer removes leftovers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fa3cli.files import writing
from fa3cli.files.writing import new_folder, write_file, write_link


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"first")
    write_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second" and entries(tmp_path) == ["a"]


def test_a_link_is_replaced_and_its_target_is_kept(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "a").symlink_to("other")
    write_file(tmp_path / "a", b"new")
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "other").read_bytes() == b"other"


def test_a_new_file_follows_umask_and_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new", b"")
    finally:
        os.umask(before)
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o604)
    write_file(tmp_path / "old", b"")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")] == [0o640, 0o604]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_call_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_file(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, call, fail)
    with pytest.raises(OSError):
        write_file(tmp_path / "a", b"new")
    with pytest.raises(OSError), new_folder(tmp_path / "b") as made:
        (made / "file").touch()
    assert (tmp_path / "a").read_bytes() == b"old" and entries(tmp_path) == ["a"]


def test_a_folder_appears_completely_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as made:
        (made / "file").touch()
        assert not any((tmp_path / "empty").iterdir())
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "never"):
        raise KeyboardInterrupt
    assert entries(tmp_path) == ["empty"] and entries(tmp_path / "empty") == ["file"]


def test_a_folder_with_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OSError), new_folder(tmp_path / "full"):
        pass
    assert entries(tmp_path) == ["full"] and entries(tmp_path / "full") == ["file"]


def test_a_link_replaces_a_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old")
    write_link(tmp_path / "a", "elsewhere")
    assert os.readlink(tmp_path / "a") == "elsewhere" and entries(tmp_path) == ["a"]


def test_the_first_error_is_raised_even_if_cleanup_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "replace", full)
    monkeypatch.setattr(Path, "unlink", fail)
    for write in (lambda: write_file(tmp_path / "a", b""), lambda: write_link(tmp_path / "a", "b")):
        with pytest.raises(OSError, match="No space"):
            write()


@pytest.mark.parametrize("name", ["os.replace", "os.fsync", "os.open"])
def test_a_failed_write_names_the_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def cannot(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(name, full)
    monkeypatch.setattr(Path, "unlink", cannot)  # what fails later hides nothing
    with pytest.raises(OSError) as error:
        write_file(tmp_path / "file", b"after")
    assert error.value.errno == 28 and error.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "before"
