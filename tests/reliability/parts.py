"""Shares work between processes that import everything once, and yields what they find as it comes."""

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

__all__ = ["found_by_parts", "tell", "working_folder"]


@contextmanager
def working_folder() -> Iterator[Path]:
    """Give a folder, in memory where possible: files are written and synced there by the thousand."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fa3-reliability-", dir=memory) as folder:
        yield Path(folder)


def found_by_parts(
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


def tell(found: dict[str, Any]) -> None:
    """Print what a part has found, in one piece: other parts write to the same pipe."""
    sys.stdout.flush()
    os.write(1, f"{json.dumps(found)}\n".encode())
