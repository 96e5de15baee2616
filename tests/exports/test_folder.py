"""Tests that the output appears complete or not at all, and what a run removes, keeps and refuses."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fa3cli.errors import (
    ConflictError,
    Fa3Error,
    InvalidInputError,
    MissingCapabilityError,
    StoppedError,
    UnsupportedError,
)
from fa3cli.exports.folder import RunFolder

LOCK = "lock"
ROOT = Path(__file__).parents[2]


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return all entries below `folder`: the bytes of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextmanager
def begun(output: Path) -> Iterator[RunFolder]:
    """Enter the folder of a run that starts from the beginning."""
    with RunFolder(output) as folder:
        folder.clear()
        yield folder


def test_the_output_appears_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with RunFolder(output) as folder:
        folder.clear()
        (folder.export / "weights").write_text("w")
        (folder.export / "weights").chmod(0o777)
        (folder.journal / "record").write_text("r")
        (folder.scratch / "piece").write_text("p")
        assert not output.exists()
    assert list(tmp_path.iterdir()) == [output]
    assert (output / "weights").read_text() == "w"
    assert permissions(output) == 0o750 and permissions(output / "weights") == 0o640


def test_an_empty_folder_is_accepted_and_parents_are_created(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with begun(output) as folder:
            (folder.export / "weights").write_text("w")
        assert [path.name for path in output.iterdir()] == ["weights"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(75)])
def test_an_error_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, begun(tmp_path / "out") as folder:
        (folder.export / "half").write_text("w")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_an_empty_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError), RunFolder(tmp_path / "out"):
        raise ValueError
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_failed_write_names_the_output_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingCapabilityError, match="No space left") as error,
        begun(tmp_path / "out") as folder,
    ):
        (folder.export / "half").write_text("w")
        raise OSError(28, "No space left on device")
    assert str(tmp_path / "out") in str(error.value) and error.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_full_disk_at_the_last_step_is_reported(tmp_path: Path, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fa3cli.exports.folder.sync", full)
    with (
        pytest.raises(MissingCapabilityError, match="could not be written"),
        begun(tmp_path / "out") as folder,
    ):
        (folder.export / "weights").touch()
        folder.keep = keep
    assert not (tmp_path / "out").exists() and (tmp_path / "out.journal").exists() == keep


def test_subfolders_have_the_same_permissions(tmp_path: Path) -> None:
    with begun(tmp_path / "out") as folder:
        (folder.export / "vllm").mkdir(mode=0o777)
        (folder.export / "vllm" / "weights").touch(0o666)
    assert permissions(tmp_path / "out" / "vllm") == 0o750
    assert permissions(tmp_path / "out" / "vllm" / "weights") == 0o640


@pytest.mark.parametrize("occupied", ["file", "folder"])
def test_an_existing_file_or_folder_is_never_replaced(tmp_path: Path, occupied: str) -> None:
    output = tmp_path / "out"
    mine = output if occupied == "file" else output / "mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConflictError, match="already holds something else") as error:
        RunFolder(output).__enter__()
    assert error.value.exit_code == 4 and str(output) in str(error.value)
    assert mine.read_text() == "mine" and list(tmp_path.iterdir()) == [output]


def test_the_root_is_not_replaced() -> None:
    with pytest.raises(ConflictError, match="/: already holds something else"):
        RunFolder(Path("/")).__enter__()


def test_an_output_created_during_the_run_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ConflictError, match="created by another program") as error, begun(output) as folder:
        (folder.export / "weights").write_text("hours of work")
        output.mkdir()
        (output / "mine").write_text("mine")
    assert (output / "mine").read_text() == "mine"
    assert str(folder.export) in error.value.hint
    assert (folder.export / "weights").read_text() == "hours of work"


def test_a_disk_without_enough_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_500_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MissingCapabilityError, match=r"needs 2,000\.0 MB.*1,500\.0 MB free") as error:
        RunFolder(tmp_path / "out", 2_000_000_000).__enter__()
    assert error.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.journal").mkdir()
    (tmp_path / "out.journal" / LOCK).touch()
    with pytest.raises(MissingCapabilityError, match=r"needs 2,000\.0 MB"):
        RunFolder(tmp_path / "out", 2_000_000_000).__enter__()
    with RunFolder(tmp_path / "out", 1_500_000_000) as folder:
        folder.clear()


def test_space_used_by_a_killed_run_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (tmp_path / "out.journal").mkdir()
    (tmp_path / "out.journal" / LOCK).touch()
    (tmp_path / "out.journal" / "export").mkdir()
    (tmp_path / "out.journal" / "export" / "half").write_text("x" * 300)
    with pytest.raises(MissingCapabilityError):
        RunFolder(tmp_path / "out", 401).__enter__()
    with RunFolder(tmp_path / "out", 400):
        pass


def leave_killed_run(output: Path) -> Path:
    """Return the folder of a run that wrote files and was killed."""
    left = output.with_name("out.journal")
    for name in ("export", "visits", "scratch"):
        (left / name).mkdir(parents=True)
        (left / name / "half").write_text("of an older run")
    (left / LOCK).touch()
    return left


def test_files_of_a_killed_run_can_be_continued(tmp_path: Path) -> None:
    left = leave_killed_run(tmp_path / "out")
    before = snapshot(left)
    with RunFolder(tmp_path / "out") as folder:
        assert folder.path == left and snapshot(left) == before
        (folder.export / "more").write_text("w")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"half", "more"}


def test_files_of_a_killed_run_can_be_cleared(tmp_path: Path) -> None:
    leave_killed_run(tmp_path / "out")
    with begun(tmp_path / "out") as folder:
        assert set(snapshot(folder.path)) == {"export", "visits", "scratch", LOCK}
        (folder.export / "weights").write_text("w")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["weights"]


@pytest.mark.parametrize("done", range(12))
def test_a_run_killed_while_clearing_leaves_no_partial_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """A partly cleared folder has the complete old export, none, or an empty journal."""
    left = leave_killed_run(tmp_path / "out")
    before, calls = snapshot(left / "export"), iter(range(done))

    def killed_after(function: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **named: object) -> object:
            if next(calls, None) is None:
                raise SystemExit
            return function(*arguments, **named)

        return called

    for holder, name in ((shutil, "rmtree"), (Path, "rename"), (Path, "mkdir")):
        monkeypatch.setattr(holder, name, killed_after(getattr(holder, name)))
    folder = RunFolder(tmp_path / "out")
    with suppress(SystemExit):
        folder.clear()
    monkeypatch.undo()
    if (left / "export").is_dir():
        assert snapshot(left / "export") == before or not any((left / "visits").iterdir())
    with begun(tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "full"), StoppedError("asked"), MissingCapabilityError("lost")]
)
def test_files_are_kept_after_errors_that_a_retry_can_solve(tmp_path: Path, error: BaseException) -> None:
    with suppress(BaseException), begun(tmp_path / "out") as folder:
        folder.keep = True
        (folder.export / "half").write_text("w")
        raise error
    with RunFolder(tmp_path / "out") as folder:
        assert (folder.export / "half").read_text() == "w"


@pytest.mark.parametrize("error", [InvalidInputError("NaN"), UnsupportedError("that layer")])
def test_files_are_removed_after_errors_that_a_retry_cannot_solve(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), begun(tmp_path / "out") as folder:
        folder.keep = True
        raise error
    assert list(tmp_path.iterdir()) == []


def test_leftovers_beside_a_finished_export_are_removed(tmp_path: Path) -> None:
    RunFolder(tmp_path / "out").sweep()
    leave_killed_run(tmp_path / "out")
    RunFolder(tmp_path / "out").sweep()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.journal").mkdir()
    (tmp_path / "out.journal" / "mine").touch()
    RunFolder(tmp_path / "out").sweep()
    assert (tmp_path / "out.journal" / "mine").exists()


RUN = """
import sys, time
from pathlib import Path
from fa3cli.exports.folder import RunFolder
with RunFolder(Path(sys.argv[1])) as folder:
    folder.clear()
    (folder.export / "half").write_text("mine")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_running_process_locks_the_output_until_it_is_killed(tmp_path: Path) -> None:
    left = tmp_path / "out.journal"
    command = [sys.executable, "-c", RUN, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        try:
            assert run.stdout.readline() == "writing\n"
            with pytest.raises(ConflictError, match="another run is writing it") as error:
                RunFolder(tmp_path / "out").__enter__()
            assert error.value.exit_code == 4 and str(left) in str(error.value) and error.value.hint
            assert (left / "export" / "half").read_text() == "mine" and list(tmp_path.iterdir()) == [left]
        finally:
            run.kill()
    with RunFolder(tmp_path / "out") as folder:
        assert (folder.export / "half").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_held_lock_refuses_a_run_and_a_released_lock_does_not(tmp_path: Path) -> None:
    """The lock decides, not its file: a refused run does not take the lock."""
    left = tmp_path / "out.journal"
    (left / "export").mkdir(parents=True)
    (left / "half").write_text("mine")
    with (left / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for _ in range(2):
            with pytest.raises(ConflictError, match="another run is writing it"):
                RunFolder(tmp_path / "out").__enter__()
        assert snapshot(left) == {LOCK: b"", "half": b"mine", "export": None}
    with RunFolder(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_the_lock_is_held_within_the_block(tmp_path: Path) -> None:
    with begun(tmp_path / "out") as folder:
        (folder.export / "weights").write_text("w")
        with (folder.path / LOCK).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ConflictError, match="another run is writing it"):
            RunFolder(tmp_path / "out").__enter__()
        assert [file.name for file in folder.export.iterdir()] == ["weights"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["weights"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_releases_the_lock(tmp_path: Path, error: BaseException) -> None:
    first = RunFolder(tmp_path / "out")  # this reference keeps the lock file open
    with pytest.raises(type(error)), first:
        raise error
    with begun(tmp_path / "out") as folder:
        (folder.export / "weights").write_text("w")
    assert (tmp_path / "out" / "weights").read_text() == "w"


@pytest.mark.parametrize("foreign", ["file", "folder", "folder in a folder"])
def test_a_journal_folder_of_another_program_is_refused(tmp_path: Path, foreign: str) -> None:
    left = tmp_path / "out.journal"
    if foreign == "file":
        left.write_text("mine")
    else:
        left.mkdir()
    if foreign == "folder":
        (left / "weights").write_text("mine")
    if foreign == "folder in a folder":
        (left / "deep" / LOCK).mkdir(parents=True)
    before = snapshot(tmp_path)
    with pytest.raises(ConflictError, match="not the folder of a stopped run") as error:
        RunFolder(tmp_path / "out").__enter__()
    assert error.value.exit_code == 4 and str(left) in str(error.value) and error.value.hint
    assert snapshot(tmp_path) == before


def test_the_next_run_keeps_a_complete_export_that_could_not_be_moved(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ConflictError, match="created by another program"), begun(output) as folder:
        (folder.export / "weights").write_text("hours of work")
        output.write_text("mine")
    assert snapshot(folder.export) == {"weights": b"hours of work"}
    output.unlink()
    with pytest.raises(ConflictError, match=r"out\.journal"):
        RunFolder(output).__enter__()
    assert snapshot(folder.export) == {"weights": b"hours of work"}


@pytest.mark.parametrize("linked", [False, True])
def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    """It is refused before the run, since no folder can be renamed to a mount point."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "link").symlink_to(disk)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == disk)
    with pytest.raises(ConflictError, match="a mount point") as error:
        RunFolder(tmp_path / "link" if linked else disk).__enter__()
    assert error.value.exit_code == 4 and str(disk) in str(error.value) and "inside" in error.value.hint
    assert not list(disk.iterdir()) and {file.name for file in tmp_path.iterdir()} == {"disk", "link"}
    with begun(disk / "out") as folder:
        (folder.export / "weights").write_text("w")
    assert (disk / "out" / "weights").read_text() == "w"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    """The export is written beside the link's target, which may be on another disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if there:
        (disk / "real").mkdir()
    (tmp_path / "out").symlink_to(disk / "real")
    with begun(tmp_path / "out") as folder:
        assert folder.path.parent == disk
        (folder.export / "weights").write_text("w")
    assert (tmp_path / "out" / "weights").read_text() == "w"
    assert (tmp_path / "out").is_symlink() and list(disk.iterdir()) == [disk / "real"]


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingCapabilityError, match="cannot be written") as error:
        RunFolder(tmp_path / "file" / "out").__enter__()
    assert "--output" in error.value.hint


@pytest.mark.parametrize(
    "name",
    ["os.open", "os.mkdir", "os.rename", "os.rmdir", "os.unlink", "os.fsync", "os.chmod", "fcntl.flock"],
)
def test_a_failed_system_call_is_reported_and_a_second_run_succeeds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function = name.split(".")
    real = getattr({"os": os, "fcntl": fcntl}[module], function)
    for place in range(12):
        output, calls = tmp_path / str(place) / "out", 0
        output.parent.mkdir()

        def failing(*arguments: Any, place: int = place, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == place + 1:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **named)

        with monkeypatch.context() as patched, suppress(Fa3Error):
            patched.setattr(name, failing)
            make(output)
        if output.exists():  # complete; a later step failed
            RunFolder(output).sweep()
        else:
            make(output)
        assert (output / "sub" / "weights").read_text() == "w"
        assert list(output.parent.iterdir()) == [output]


def make(output: Path) -> None:
    with begun(output) as folder:
        (folder.export / "sub").mkdir()
        (folder.export / "sub" / "weights").write_text("w")


@pytest.mark.parametrize("lock", ["pipe", "link"])
def test_a_lock_that_is_not_a_regular_file_is_not_opened(lock: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.journal").mkdir()
    if lock == "pipe":
        os.mkfifo(tmp_path / "out.journal" / "lock")
    else:
        (tmp_path / "out.journal" / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ConflictError, match="not the folder of a stopped run") as error:
        RunFolder(tmp_path / "out").__enter__()
    assert error.value.hint == "choose another --output" and (tmp_path / "mine").read_text() == "mine"
