"""Starts processes with another transformers version, and continues with the next type after a crash or a hang."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ROOT", "VERSIONS", "command", "run_types", "variables"]

ROOT = Path(__file__).parents[3]
VERSIONS = ("4.43.1", "4.46.3", "4.48.3", "4.51.3", "4.53.3", "4.57.6", "5.0.0", "5.23.0")


def command(version: str, module: str, *arguments: object) -> list[str]:
    """The command that runs a module under a transformers version; FileNotFoundError without its environment."""
    python = ROOT / ".venvs" / version / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python} is not here: no environment for transformers {version}")
    return [str(python), "-m", module, *map(str, arguments)]


def variables(modules: Path | None = None) -> dict[str, str]:
    """The environment variables of such a process.

    transformers copies model code to `modules`, in folders named like the model's: use one `modules` per run.
    """
    ours = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **ours, **({"HF_MODULES_CACHE": str(modules)} if modules else {})}


def run_types(
    call: Sequence[str], types: Sequence[str], results: Path, log: Path, report: Callable[[str, dict], None]
) -> None:
    """Run types in one process; if a type ends the process, run the following types in a new one.

    `call` with types prints the name of a type when it begins, and writes `results`/<type>.json when it ends.
    """
    todo = list(types)
    while todo:
        begun = 0
        with (
            log.open("a") as errors,
            subprocess.Popen(
                [*call, *todo], env=variables(results.parent / "modules"), cwd=ROOT, text=True,
                stdout=subprocess.PIPE, stderr=errors,
            ) as process,
        ):  # fmt: skip
            for _ in process.stdout:
                if begun:
                    report(todo[begun - 1], _read(results, todo[begun - 1]))
                begun += 1
        if not begun:
            raise RuntimeError(f"{call[0]} ended before its first type: see {log}")
        if process.returncode:
            ended = {"error": f"it ended the process with code {process.returncode}"}
            (results / f"{todo[begun - 1]}.json").write_text(json.dumps(ended))
        report(todo[begun - 1], _read(results, todo[begun - 1]))
        todo = todo[begun:]


def _read(results: Path, model_type: str) -> dict:
    return json.loads((results / f"{model_type}.json").read_text())
