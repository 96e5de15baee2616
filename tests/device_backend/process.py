"""Calls functions in a process of their own: a device type, once registered, stays, and other tests run without."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Call", "call_apart"]

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """A function of this package, `module.name`, and its arguments as json knows them."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


def call_apart(calls: Sequence[Call], folder: Path) -> list[str | None]:
    """Call functions in one process, one after the other; return of each None, or the traceback of what it raised."""
    todo, done = folder / "calls.json", folder / "outcomes.json"
    todo.write_text(json.dumps([(call.function, call.arguments) for call in calls]))
    process = subprocess.run(
        [sys.executable, "-m", __name__, str(todo), str(done)],
        cwd=_ROOT,
        env=os.environ | {"HF_MODULES_CACHE": tempfile.mkdtemp(dir=folder), "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"the process ended with {process.returncode}:\n{process.stdout}{process.stderr}")
    return json.loads(done.read_text())


def _outcome(function: str, arguments: dict[str, Any]) -> str | None:
    module, _, name = function.rpartition(".")
    try:
        getattr(importlib.import_module(f"{__package__}.{module}"), name)(**arguments)
    except Exception:  # noqa: BLE001 - what a function raises is what its test is told
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    done = [_outcome(*call) for call in json.loads(Path(sys.argv[1]).read_text())]
    Path(sys.argv[2]).write_text(json.dumps(done))
