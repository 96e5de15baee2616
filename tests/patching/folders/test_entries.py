import errno
import os
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, MissingCapabilityError
from fa3cli.patching.folders.entries import (
    Link,
    exclusive_folder,
    explain_write_errors,
    original_link,
    read_entry,
    write_entry,
)

LEFT = ".fa3-0123456789abcdef.tmp"


def test_an_entry_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for entry in (b"old", Link("elsewhere"), b"new", None, None):
        write_entry(path, entry)
        assert read_entry(path) == entry
    assert [*tmp_path.iterdir()] == []


def test_the_receipt_folder_exists_only_while_it_has_files(tmp_path: Path) -> None:
    first, second = tmp_path / ".fa3" / "a", tmp_path / ".fa3" / "b"
    write_entry(first, b"")
    write_entry(second, b"")
    write_entry(first, None)
    assert second.exists()
    write_entry(second, None)
    assert not (tmp_path / ".fa3").exists()


def test_leftovers_are_removed_but_links_are_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for place in (folder, folder / ".fa3", folder / "part", outside):
        place.mkdir()
        (place / LEFT).touch()
    (folder / "link").symlink_to(outside)
    (tmp_path / LEFT).touch()
    with exclusive_folder(folder):
        assert sorted(entry.name for entry in folder.iterdir()) == ["link", "part"]
    assert (outside / LEFT).exists() and not (tmp_path / LEFT).exists()
    with exclusive_folder(tmp_path / "missing"):
        pass


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, MissingCapabilityError),
        (errno.EDQUOT, MissingCapabilityError),
        (errno.EIO, MissingCapabilityError),
        (errno.EROFS, ConflictError),
    ],
)
def test_system_errors_get_a_hint(tmp_path, number: int, kind: type) -> None:
    with pytest.raises(kind) as caught, explain_write_errors(tmp_path):
        raise OSError(number, os.strerror(number), "file")
    assert "--output" in caught.value.hint


def test_a_link_is_restored_if_its_target_has_the_same_size(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"12")
    path = tmp_path / "config.json"
    assert original_link(path, "blob", b"34") == Link("blob")  # its content is not read
    os.mkfifo(tmp_path / "pipe")
    for target in ("pipe", "gone", "a\0b", "/dev/zero", ".", None):
        assert original_link(path, target, b"") == b""
    assert original_link(path, "blob", b"123") == b"123"
