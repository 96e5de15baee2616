import errno
import os
import tempfile

import pytest

from fa3cli.errors import ConflictError, MissingCapabilityError
from fa3cli.patching.files import link_folder, make_link, may_fail, remove, write


def test_write_replaces_a_link_and_leaves_its_target(tmp_path) -> None:
    (tmp_path / "blob").write_bytes(b"old")
    make_link(tmp_path / "file", "blob")
    write(tmp_path / "file", b"new")
    assert (tmp_path / "blob").read_bytes() == b"old"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_failed_write_leaves_nothing_behind(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConflictError, match="cannot write"), may_fail(tmp_path):
        write(tmp_path / "folder", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
def test_a_full_disk_leaves_no_empty_folder(tmp_path, monkeypatch, step: str) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile if step == "mkstemp" else os, step, full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / ".fa3" / "patch.json", b"x")
    assert not any(tmp_path.iterdir())


def test_a_folder_of_links_is_made_whole_or_not_at_all(tmp_path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "weights").write_bytes(b"w")
    output.mkdir()
    (output / "mine").write_bytes(b"x")
    with pytest.raises(OSError, match="not empty"):
        link_folder(source, output, b"{}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]
    assert [entry.name for entry in output.iterdir()] == ["mine"]


def test_a_written_file_can_be_read_like_any_other(tmp_path) -> None:
    write(tmp_path / "new", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_remove_takes_an_empty_receipt_folder_with_it(tmp_path) -> None:
    write(tmp_path / ".fa3" / "a", b"")
    write(tmp_path / ".fa3" / "b", b"")
    remove(tmp_path / ".fa3" / "a")
    assert (tmp_path / ".fa3").exists()
    remove(tmp_path / ".fa3" / "b")
    assert not (tmp_path / ".fa3").exists()
    remove(tmp_path / "missing")


def test_link_folder_links_everything_but_the_config(tmp_path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(b"w")
    (source / "config.json").write_bytes(b"old")
    output = source / "out"
    link_folder(source, output, b"new")
    assert sorted(entry.name for entry in output.iterdir()) == ["config.json", "sub", "weights"]
    assert (output / "weights").is_symlink()
    assert (output / "weights").read_bytes() == b"w"
    assert (output / "config.json").read_bytes() == b"new"
    assert (source / "config.json").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, MissingCapabilityError), (errno.EROFS, ConflictError)]
)
def test_what_the_system_says_gets_a_hint(tmp_path, number: int, kind: type) -> None:
    with pytest.raises(kind) as caught, may_fail(tmp_path):
        raise OSError(number, os.strerror(number), "file")
    assert "--output" in caught.value.hint
