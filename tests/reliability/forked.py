"""Runs a function in a child process and tells how that ended: on time, within memory, by itself."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability.watched import SECONDS

__all__ = ["KILLED", "forked"]

MEMORY = 1 << 20  # kilobytes
KILLED = "killed by SIGKILL"


def forked(child: Callable[[], tuple[int, str]], said: Path) -> tuple[int, str]:
    """Run a function in a child, its output in a file; return what it returns, or how it ended otherwise."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        gc.disable()
        said_to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said_to, 1)
        os.dup2(said_to, 2)
        code, wrong = child()
        os.write(writing, f"{code} {wrong}"[:4000].encode(errors="backslashreplace"))
        os._exit(0)
    os.close(writing)
    blocked = _await(pid)
    _, status, usage = os.wait4(pid, 0)
    with open(reading, "rb") as told:
        text = told.read().decode()
    if blocked:
        return -1, f"waits without end ({blocked})"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hang = number == signal.SIGXCPU
        return -1, f"more than {SECONDS} s of work" if hang else f"killed by {signal.Signals(number).name}"
    if usage.ru_maxrss - _resident() > MEMORY:
        return -1, f"{usage.ru_maxrss >> 10} MB of memory"
    code, _, wrong = text.partition(" ")
    return int(code or -1), wrong if code else "the child ended early"


def _await(pid: int) -> str:
    """Return when a child has ended; end it and say where it waits if it has not worked for five seconds."""
    begin, busy = time.monotonic(), -1
    pause = 0.0005
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)
        if time.monotonic() - begin > SECONDS:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            now = int(fields[11]) + int(fields[12])
            if now == busy and fields[0] == "S":
                waiting = Path(f"/proc/{pid}/wchan").read_text()
                os.kill(pid, signal.SIGKILL)
                return waiting
            begin, busy = time.monotonic() - SECONDS + 0.5, now
    return ""


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
