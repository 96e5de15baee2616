"""Shares work between long-lived processes, and yields their results as they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.reliability.scenes import ROOT, environment

__all__ = ["print_result", "results_of_parts", "working_folder"]


@contextmanager
def working_folder() -> Iterator[Path]:
    """Yield a temporary folder, in memory if possible: thousands of files are written and synced there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fa3-reliability-", dir=memory) as folder:
        yield Path(folder)


def results_of_parts(
    module: str, parts: int, arguments: Sequence[object], folder: Path, **env: str
) -> Iterator[dict[str, Any]]:
    """Run `python -m module ARGUMENTS --part N/PARTS` for every N and yield the json objects that they print."""
    reading, writing = os.pipe()
    running = []
    for number in range(parts):
        command = [sys.executable, "-m", module, *map(str, arguments), "--part", f"{number}/{parts}"]
        given = environment(folder / f"modules-{number}") | env
        with open(folder / f"errors-{number}", "w") as errors:
            running.append(subprocess.Popen(command, cwd=ROOT, env=given, stdout=writing, stderr=errors))
    os.close(writing)
    with open(reading) as lines:
        yield from map(json.loads, lines)
    for number, part in enumerate(running):
        if part.wait():
            raise RuntimeError((folder / f"errors-{number}").read_text()[-3000:])


def print_result(result: dict[str, Any]) -> None:
    """Print a part's result with a single write: all parts write to the same pipe."""
    sys.stdout.flush()
    os.write(1, f"{json.dumps(result)}\n".encode())
