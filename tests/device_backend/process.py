"""Calls functions in a separate process: a device type cannot be unregistered, and other tests must not see it."""

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
    """A function of this package, `module.name`, and its arguments, which JSON must be able to hold."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


def call_apart(calls: Sequence[Call], folder: Path) -> list[str | None]:
    """Call functions one after the other in one process; return None per call, or the traceback of its error."""
    input_file, output_file = folder / "calls.json", folder / "outcomes.json"
    input_file.write_text(json.dumps([(call.function, call.arguments) for call in calls]))
    process = subprocess.run(
        [sys.executable, "-m", __name__, str(input_file), str(output_file)],
        cwd=_ROOT,
        env=os.environ | {"HF_MODULES_CACHE": tempfile.mkdtemp(dir=folder), "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"the process ended with {process.returncode}:\n{process.stdout}{process.stderr}")
    return json.loads(output_file.read_text())


def _outcome(function: str, arguments: dict[str, Any]) -> str | None:
    module, _, name = function.rpartition(".")
    try:
        getattr(importlib.import_module(f"{__package__}.{module}"), name)(**arguments)
    except Exception:  # noqa: BLE001 - the caller gets every error as text
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    outcomes = [_outcome(*call) for call in json.loads(Path(sys.argv[1]).read_text())]
    Path(sys.argv[2]).write_text(json.dumps(outcomes))
