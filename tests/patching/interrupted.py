"""Runs an action in a forked process that is killed, or whose system call fails, at the n-th change of the disk."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fa3cli.errors import Fa3Error

__all__ = ["DONE", "FAILED", "KILLED", "PAST", "failing", "killed", "together", "tree"]

# It ended well; with an error of fa3; by the kill; with another error; well, and made fewer changes than that.
DONE, FAILED, KILLED, BROKEN, PAST = "done", "failed", "killed", "broken", "past"
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR


def killed(action: Callable[[], object], at: int) -> str:
    """Run an action that is killed just before its change number `at` of the disk; returns how it ended."""
    return _forked(action, at, lambda number: number == at and os.kill(os.getpid(), signal.SIGKILL))


def failing(action: Callable[[], object], at: int, number: int, *, ever_after: bool = False) -> str:
    """Run an action whose change number `at` of the disk (or every later one too) fails; returns how it ended."""

    def fail(count: int) -> None:
        if count == at or (ever_after and count > at):
            raise OSError(number, os.strerror(number), "a file")

    return _forked(action, at, fail)


def together(actions: list[Callable[[], object]]) -> list[str]:
    """Run actions at the same time in separate processes; returns how they ended."""
    return [_ended(child) for child in [_fork(action, 0, lambda _: None) for action in actions]]


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: the bytes of files, the targets of links, and folders."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            content: object = os.readlink(path) if path.is_symlink() else None
            found[str(path.relative_to(folder))] = content or (path.is_file() and path.read_bytes())
    return found


def _forked(action: Callable[[], object], at: int, at_change: Callable[[int], object]) -> str:
    return _ended(_fork(action, at, at_change))


def _fork(action: Callable[[], object], at: int, at_change: Callable[[int], object]) -> int:
    child = os.fork()
    if child == 0:
        count = _watch(at_change)
        try:
            action()
        except Fa3Error:
            os._exit(1)
        except BaseException:  # noqa: BLE001
            sys.excepthook(*sys.exc_info())
            os._exit(2)
        os._exit(0 if next(count) > at else 3)
    return child


def _ended(child: int) -> str:
    status = os.waitpid(child, 0)[1]
    return KILLED if os.WIFSIGNALED(status) else (DONE, FAILED, BROKEN, PAST)[os.WEXITSTATUS(status)]


def _watch(at_change: Callable[[int], object]) -> Iterator[int]:
    """Call `at_change` with the number of each change just before it; returns a function for the next number."""
    count = iter(range(sys.maxsize))

    def hook(event: str, arguments: tuple) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & _WRITING):
            at_change(next(count))

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        at_change(next(count))
        fsync(descriptor)

    os.fsync = counted  # of which no hook is told
    sys.addaudithook(hook)
    return count
