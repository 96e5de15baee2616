"""Runs a function in a child process, and reports if it hangs, is killed, or uses too much time or memory."""

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


def forked(child: Callable[[], tuple[int, str]], output: Path) -> tuple[int, str]:
    """Run a function in a child process, with its output in a file; return its result, or -1 and a problem."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        gc.disable()
        output_descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output_descriptor, 1)
        os.dup2(output_descriptor, 2)
        code, problem = child()
        os.write(writing, f"{code} {problem}"[:4000].encode(errors="backslashreplace"))
        os._exit(0)
    os.close(writing)
    blocked = _wait(pid)
    _, status, usage = os.wait4(pid, 0)
    with open(reading, "rb") as result:
        text = result.read().decode()
    if blocked:
        return -1, f"waits forever ({blocked})"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hang = number == signal.SIGXCPU
        return -1, f"more than {SECONDS} s of work" if hang else f"killed by {signal.Signals(number).name}"
    if usage.ru_maxrss - _resident() > MEMORY:
        return -1, f"{usage.ru_maxrss >> 10} MB of memory"
    code, _, problem = text.partition(" ")
    return int(code or -1), problem if code else "the child ended early"


def _wait(pid: int) -> str:
    """Wait until a child ends; if it is idle after five seconds, kill it and return the kernel function it waits in."""
    begin, last_ticks = time.monotonic(), -1
    pause = 0.0005
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)
        if time.monotonic() - begin > SECONDS:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])  # utime and stime
            if ticks == last_ticks and fields[0] == "S":
                blocked = Path(f"/proc/{pid}/wchan").read_text()
                os.kill(pid, signal.SIGKILL)
                return blocked
            begin, last_ticks = time.monotonic() - SECONDS + 0.5, ticks  # look again in half a second
    return ""


def _resident() -> int:
    """Return this process's resident memory in kilobytes: a forked child shares it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
