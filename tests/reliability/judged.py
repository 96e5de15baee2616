"""Lets a child run one input and judges it: exit code, traceback, time, memory, and what it opened."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .documents import mutate
from .odd_files import LINKED
from .readers import READERS
from .sources import HOSTILE
from .values import CANARY
from .watched import SECONDS, limit, run_command, watch

__all__ = ["Outcome", "judge", "warm_up"]

MEMORY = 1 << 20  # kilobytes


@dataclass(frozen=True)
class Outcome:
    """What became of one input; a `failure` says what the command should not have done."""

    reader: str
    seed: int
    code: int
    failure: str
    seconds: float


def warm_up(name: str, scenes: Path, place: Path) -> None:
    """Run a reader's command on its valid folder in this process, so that no child has to import what it needs."""
    shutil.rmtree(place, ignore_errors=True)
    _lay(scenes / READERS[name].scene, place / "work")
    before = sys.argv, sys.stdout, sys.stderr
    said_to = os.open(place / "said", os.O_WRONLY | os.O_CREAT)
    kept = [os.dup(1), os.dup(2)]
    os.dup2(said_to, 1)
    os.dup2(said_to, 2)
    code, wrong = run_command(READERS[name].command.format(w=place / "work").split())
    for number, descriptor in enumerate((*kept, said_to)):
        if number < 2:
            os.dup2(descriptor, number + 1)
        os.close(descriptor)
    sys.argv, sys.stdout, sys.stderr = before
    if code or wrong:
        raise RuntimeError(f"{name}: its valid folder: {code} {wrong}: {(place / 'said').read_text()}")


def judge(name: str, seed: int, scenes: Path, place: Path, *, keep: bool = False) -> Outcome:
    """Make input number `seed` of a reader in the folder `place`, run its command there, and judge that.

    Number -1 is the valid one.
    """
    reader, work = READERS[name], place / "work"
    shutil.rmtree(place, ignore_errors=True)
    _lay(scenes / reader.scene, work)
    if seed >= 0:
        rng = random.Random(f"{name} {seed}")
        documents = sorted(file for pattern in reader.documents for file in work.glob(pattern))
        mutate(rng.choice(documents), reader.form, rng)
    os.environ["FA3_CANARY"] = str(work / CANARY)
    begin = time.monotonic()

    def child() -> tuple[int, str]:
        limit()
        seen = watch(work, work / CANARY)
        code, wrong = run_command(reader.command.format(w=work).split())
        return code, wrong or "; ".join(dict.fromkeys(seen))

    code, wrong = _forked(child, place / "said")
    said = (place / "said").read_text(errors="replace")
    if not wrong and not (0 <= code <= 6 or code in (75, 130)):
        wrong = f"exit code {code}"
    elif not wrong and code == 1 and not reader.finds:
        wrong = "exit code 1 of a command that finds nothing"
    elif not wrong and ("Traceback" in said or "Exception ignored" in said):
        wrong = f"a traceback was printed: {said.strip()[-200:]!a}"
    elif not wrong and code and not said.strip():
        wrong = f"exit code {code} without a word"
    if not keep:
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(name, seed, code, wrong, time.monotonic() - begin)


def _lay(scene: Path, work: Path) -> None:
    """Copy a scene, and put beside it what nobody may open."""
    shutil.copytree(scene, work, symlinks=True)
    (work / LINKED).mkdir()
    (work / CANARY).mkdir()
    (work / "x").write_text("outside the model's folder\n")
    for file in ("x.py", "x.json", "x--x.py"):
        (work / CANARY / file).write_text(HOSTILE)
    (work / CANARY / "model.safetensors").write_bytes(b"\x02" + b"\x00" * 7 + b"{}")


def _forked(child: Callable[[], tuple[int, str]], said: Path) -> tuple[int, str]:
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
        hang = number in (signal.SIGXCPU, signal.SIGKILL)
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
