"""CPU time of `fa3 --help` and `fa3 patch`, process start included: the median of five runs each."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_MODEL = Path(__file__).parent.parent / "examples" / "qwen2-tiny"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        shutil.copytree(_MODEL, folder)
        print(f"fa3 --help  {_median(['--help']):.2f} s")
        print(
            f"fa3 patch   {_median(['patch', str(folder)], lambda: _run(['patch', str(folder), '--undo'])):.2f} s"
        )


def _median(arguments: list[str], after: object = None) -> float:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run(arguments)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime)
        if after is not None:
            after()
    return statistics.median(seconds)


def _run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "fa3cli", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
