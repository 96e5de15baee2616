"""Runs one command in this process, a forked child, and reports what the command must not do."""

from __future__ import annotations

import gc
import io
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

__all__ = ["limit", "run_command", "warm_up", "watch"]

GIGABYTE = 1 << 30
SECONDS = 5


def limit() -> None:
    """Limit this process to five seconds of CPU time and one gigabyte of new memory."""
    status = Path("/proc/self/status").read_text()
    data = int(status.partition("VmData:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (data + GIGABYTE, data + GIGABYTE))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watch(work: Path, canary: Path) -> list[str]:
    """Return a list to which violations are added from now on: opened files outside, started processes, connections."""
    seen: list[str] = []
    private = work.with_name(f"{work.name}-private")  # for temporary copies that libraries read
    private.mkdir(exist_ok=True)
    tempfile.tempdir = str(private)
    allowed = tuple(f"{place}/" for place in (*_allowed(work), private))
    forbidden = f"{canary}/"

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(forbidden) or not f"{path}/".startswith(allowed):
                seen.append(f"opened {path.replace(str(work), 'WORK')[:200]!a}")
        elif event in (
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
            "pty.spawn",
        ):
            seen.append(f"{event} {str(arguments)[:200]!a}")

    sys.addaudithook(look)
    return seen


def _allowed(work: Path) -> list[str]:
    import fa3cli

    places = [
        str(work),
        sys.prefix,
        sys.base_prefix,
        os.environ["HF_MODULES_CACHE"],
        str(Path(fa3cli.__file__).parents[1]),
    ]
    return [
        *places,
        *(str(Path(place).resolve()) for place in places),
        "/proc",
        "/sys",
        "/usr",
        "/lib",
        "/etc",
        "/dev/null",
    ]


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Run `fa3` with these arguments; return its exit code, and a problem if an exception was not caught."""
    from fa3cli.cli import main

    sys.argv = ["fa3", *arguments]
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        for number in (1, 2)
    )
    try:
        main()
    except SystemExit as done:
        return (
            (0, "")
            if done.code is None
            else (done.code, "")
            if isinstance(done.code, int)
            else (1, f"exit {done.code!r}")
        )
    except BaseException as error:  # noqa: BLE001  # any exception is a finding
        return -1, _described(error)
    return 0, ""


def warm_up(arguments: list[str], output: Path) -> tuple[int, str]:
    """Run a command before this process forks, so that its children need not import the command's modules."""
    before = sys.argv, sys.stdout, sys.stderr
    kept = os.dup(1), os.dup(2)
    with open(output, "wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        result = run_command(arguments)
    for number, descriptor in enumerate(kept, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv, sys.stdout, sys.stderr = before
    gc.collect()
    gc.freeze()  # the collector of a child leaves these objects alone, so their pages stay shared
    return result


def _described(error: BaseException) -> str:
    """Return an exception's type and text, and its last frame within fa3cli."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fa3cli/" in frame.filename]
    place = (
        f"{frames[-1].filename.rpartition('/fa3cli/')[2]}:{frames[-1].lineno} {frames[-1].name}"
        if frames
        else "nowhere"
    )
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:120]!a}"
