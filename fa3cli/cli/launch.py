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
from types import FrameType

from fa3cli.cli.console import note
from fa3cli.errors import MissingCapabilityError

__all__ = ["launch", "launched_rank"]

_GRACE = 30.0  # seconds in which the other ranks notice by themselves that one is gone
_PR_SET_PDEATHSIG = 1


def launched_rank() -> int | None:
    """Return this process's rank, where it is one of several."""
    return int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


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
    """Wait for all ranks; those that don't notice that one failed are told to stop."""
    first: int | None = None
    deadline = float("inf")
    while any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)
        failed = next((number for number, rank in enumerate(ranks) if rank.poll()), None)
        if first is None and failed is not None:
            first, deadline = failed, time.monotonic() + _GRACE
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.terminate()
            deadline = time.monotonic() + 1  # a second SIGTERM stops at once
    first = (
        next((number for number, rank in enumerate(ranks) if rank.poll()), None) if first is None else first
    )
    if first is None:
        return 0
    code = ranks[first].returncode
    if code < 0:
        note(f"rank {first} was killed by {signal.Signals(-code).name}; the same command goes on from there")
        return MissingCapabilityError.exit_code
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_with_parent() -> Callable[[], object] | None:
    """Return what a child calls first so that Linux kills it when its parent is gone."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return None if prctl is None else lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
