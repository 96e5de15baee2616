"""`--nproc N`: starts the ranks of a run on this machine, as torchrun would, and passes signals and exit codes on."""

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

_GRACE = 30.0  # seconds in which the other ranks notice by themselves that one is gone
_NOTICE = 3.0  # seconds in which one that was told to stop does
_PR_SET_PDEATHSIG = 1


def launched_rank() -> int | None:
    """Return this process's rank, where it is one of several."""
    given = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    if not all(text.isdigit() for text in given) or "MASTER_ADDR" not in os.environ or int(given[1]) < 2:
        return None
    return int(given[0])


def rank_command() -> list[str]:
    """Return the command of this process for a rank, with this fa3cli and this sys.path.

    `-m` and `-c` would add the current folder, which may hold anything: with `-c` nothing is imported before it is gone.
    """
    here = str(Path(fa3cli.__path__[0]).parent)
    code = (
        f"import sys; sys.path[:] = [{here!r}]; import fa3cli; sys.path[:] = {sys.path!r}; "
        "from fa3cli.cli import main; main()"
    )
    return [sys.executable, "-c", code, *sys.argv[1:]]


def launch(nproc: int, command: Sequence[str]) -> int:
    """Run `command` once a rank, with the variables torchrun sets, and return the exit code of the first that failed.

    SIGINT and SIGTERM go to all ranks. They end with this process, however it ends, where the system can do that.
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
        for rank in range(nproc):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
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
    """Wait for all ranks; those that don't notice that one failed are told to stop, and killed if they don't hear."""
    failed: list[int] = []  # by themselves, the first one first
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
            # A second SIGTERM stops at once; one that waits for the others within torch hears neither.
            for rank in ranks:
                rank.kill() if stop_signals >= 2 else rank.terminate()
            stop_signals, deadline = stop_signals + 1, time.monotonic() + _NOTICE
        time.sleep(0.05)
    if not failed:
        return 0
    # Who lost another one fails as well, and may be seen before the one that was lost.
    lost = MissingCapabilityError.exit_code
    cause = next((number for number in failed if ranks[number].returncode != lost), failed[0])
    code = ranks[cause].returncode
    if code == -signal.SIGINT:
        return 130
    if code < 0:
        note(f"rank {cause} was killed by {signal.Signals(-code).name}; the same command goes on from there")
        return lost
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_with_parent() -> Callable[[], object] | None:
    """Return what a child calls first so that Linux kills it when its parent is gone."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return None if prctl is None else lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
