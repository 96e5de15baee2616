"""Measures the CPU time of `fa3 --help` and `fa3 patch` with process start: medians of five runs.

`fa3 patch --check` of qwen2, llama and the model type with the largest file is measured under every transformers in
.venvs (`make environments`).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fa3cli.errors import UnsupportedError
from fa3cli.patching.origins.installed import Installed

_ROOT = Path(__file__).parent.parent
_MODEL = _ROOT / "examples" / "qwen2-tiny"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        shutil.copytree(_MODEL, folder)
        print(f"fa3 --help  {_median(['--help']):.2f} s")
        print(f"fa3 patch   {_median(['patch', folder], lambda: _run(['patch', folder, '--undo'])):.2f} s")
        for library in sorted(_ROOT.glob(".venvs/[0-9]*/lib/python*/site-packages/transformers")):
            python = library.parents[3] / "bin" / "python"
            for model_type in ("qwen2", "llama", _largest(library)):
                (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
                seconds = _median(["patch", folder, "--check"], python=python)
                print(f"fa3 patch --check, {library.parents[3].name} {model_type}  {seconds:.2f} s")


def _largest(library: Path) -> str:
    """Return the causal model type with the largest modeling file."""
    installed = Installed(library, "")
    sizes = {}
    for model_type in installed.causal_lms:
        try:
            sizes[model_type] = installed.modeling_file(model_type).path.stat().st_size
        except UnsupportedError:
            continue
    return max(sizes, key=sizes.get)


def _median(
    arguments: list[str | Path],
    after: Callable[[], object] | None = None,
    python: str | Path = sys.executable,
) -> float:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run(arguments, python)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime)
        if after is not None:
            after()
    return statistics.median(seconds)


def _run(arguments: list[str | Path], python: str | Path = sys.executable) -> None:
    """Run fa3; exit codes 0, 1 (not patched) and 3 (the model type is refused) are accepted."""
    variables = {**os.environ, "PYTHONPATH": str(_ROOT)}
    ended = subprocess.run([python, "-m", "fa3cli", *arguments], env=variables, capture_output=True, check=False)
    if ended.returncode not in (0, 1, 3):
        raise SystemExit(ended.stderr.decode())


if __name__ == "__main__":
    main()
