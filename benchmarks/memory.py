"""Measures the peak memory of `fa3 quantize` for models of 12 and 24 layers: it should not grow with the depth.

Samples RssAnon + RssFile of the process, minus their values after the imports. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_llama import make_llama, make_samples

_RUN = """
import sys, threading, time
from pathlib import Path

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}

peak = {"RssAnon": 0, "sum": 0}
def sample():
    while True:
        now = resident()
        peak["RssAnon"] = max(peak["RssAnon"], now["RssAnon"])
        peak["sum"] = max(peak["sum"], now["RssAnon"] + now["RssFile"])
        time.sleep(0.002)

import torch, transformers
from transformers.models.llama import modeling_llama
from fa3cli import api
torch.set_num_threads(1)
folder, calib, output = map(Path, sys.argv[1:])
before = resident()
threading.Thread(target=sample, daemon=True).start()
api.quantize(folder, calib=calib, output=output, recipe="default")
print(peak["sum"] - before["RssAnon"] - before["RssFile"], peak["RssAnon"] - before["RssAnon"])
"""


def measure(folder: Path, calib: Path, output: Path) -> tuple[float, float]:
    """Return the peak of RssAnon + RssFile, and of RssAnon, in MB above the imports."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, folder, calib, output], check=True, capture_output=True, text=True
    )
    both, anonymous = map(int, done.stdout.split())
    return both / 1024, anonymous / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        calib = make_samples(Path(scratch, "calib.jsonl"), samples=16, tokens=256)
        peaks = []
        for layers in (12, 24):
            folder = make_llama(Path(scratch, f"llama{layers}"), layers=layers)
            subprocess.run([sys.executable, "-m", "fa3cli", "patch", folder], check=True, capture_output=True)
            begin = time.monotonic()
            both, anonymous = measure(folder, calib, Path(scratch, f"out{layers}"))
            peaks.append(both)
            print(
                f"{layers} layers: RssAnon + RssFile {both:.0f} MB, RssAnon {anonymous:.0f} MB above the imports, "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )
        print(f"24 layers need {peaks[1] / peaks[0] - 1:+.1%} of what 12 need")


if __name__ == "__main__":
    main()
