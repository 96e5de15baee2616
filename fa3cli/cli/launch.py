"""Implements `--nproc N`: starts the ranks of a run as torchrun does, and forwards signals and exit codes."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import fa3cli
from fa3cli.cli.console import note
from fa3cli.errors import MissingCapabilityError

__all__ = ["launch", "launched_rank", "rank_command"]

_GRACE = 30.0  # seconds for the other ranks to notice that a rank has ended, before they get a signal
_NOTICE = 3.0  # seconds for a rank to end after SIGTERM
_PR_SET_PDEATHSIG = 1


def launched_rank() -> int | None:
    """Return this process's rank if it is one of several ranks, else None."""
    given = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    if not all(text.isdigit() for text in given) or "MASTER_ADDR" not in os.environ or int(given[1]) < 2:
        return None
    return int(given[0])


def rank_command() -> list[str]:
    """Return the command of this process for a rank, with this fa3cli and this sys.path.

    `-m` and `-c` add the current folder to sys.path, which may hold any module. With `-c`, the code removes it before
    it imports anything from there.
    """
    here = str(Path(fa3cli.__path__[0]).parent)
    code = (
        f"import sys; sys.path[:] = [{here!r}]; import fa3cli; sys.path[:] = {sys.path!r}; "
        "from fa3cli.cli import main; main()"
    )
    return [sys.executable, "-c", code, *sys.argv[1:]]


def launch(nproc: int, command: Sequence[str]) -> int:
    """Run `command` once per rank with torchrun's variables, and return the exit code of the rank that failed first.

    SIGINT and SIGTERM are sent to all ranks. On Linux the ranks end with this process, however it ends.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // nproc))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "OMP_NUM_THREADS": threads,
    }
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for index in map(str, range(nproc)):
            own = {"RANK": index, "LOCAL_RANK": index}
            ranks.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **shared, **own},
                    start_new_session=True,
                    preexec_fn=_end_with_parent(),  # noqa: PLW1509
                )
            )
        return _wait(ranks)
    finally:
        for rank in ranks:
            rank.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks; after a failure, ranks that do not end in time get SIGTERM twice, then SIGKILL."""
    failed: list[int] = []  # ranks that failed before the first got a signal, in order
    deadline, stop_signals = float("inf"), 0
    while True:
        running = any(rank.poll() is None for rank in ranks)
        if not stop_signals:
            failed += [number for number, rank in enumerate(ranks) if rank.poll() and number not in failed]
        if not running:
            break
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE
        if time.monotonic() > deadline:
            # A second SIGTERM stops a rank at once; a rank that waits for others inside torch handles neither.
            for rank in ranks:
                rank.kill() if stop_signals >= 2 else rank.terminate()
            stop_signals, deadline = stop_signals + 1, time.monotonic() + _NOTICE
        time.sleep(0.05)
    if not failed:
        return 0
    # When a rank dies, its peers fail too and may end first: prefer a rank with another exit code than theirs.
    peer_lost = MissingCapabilityError.exit_code
    cause = next((number for number in failed if ranks[number].returncode != peer_lost), failed[0])
    code = ranks[cause].returncode
    if code == -signal.SIGINT:
        return 130
    if code < 0:
        note(f"rank {cause} was killed by {signal.Signals(-code).name}; the same command resumes the run")
        return peer_lost
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> Callable[[], object] | None:
    """Return the function that a child calls first so that Linux kills it when its parent ends; None elsewhere."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return None if prctl is None else lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
