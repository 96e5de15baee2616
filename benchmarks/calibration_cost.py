"""Measures the CPU time of a whole `fa3 quantize` relative to a bare forward of the same samples, without imports.

A random Llama of 8 layers x 1024, 16 samples x 256 tokens, one thread; both are measured in turn, in one process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from random_llama import make_llama, make_samples
from transformers import AutoModelForCausalLM

from fa3cli import api
from fa3cli.runs.options import RunOptions
from fa3cli.samples.dataset import read_samples

_ROUNDS = 5


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_llama(Path(scratch, "llama"), layers=8)
        calib = make_samples(Path(scratch, "calib.jsonl"), samples=16, tokens=256)
        subprocess.run([sys.executable, "-m", "fa3cli", "patch", folder], check=True, capture_output=True)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        samples = [sample.arguments["input_ids"] for sample in read_samples(calib, folder)]

        @torch.no_grad()
        def forward() -> None:
            for ids in samples:
                model.model(ids, use_cache=False)  # without lm_head, which calibration does not run either

        ratios = []
        for round_ in range(_ROUNDS):
            bare = _cpu_seconds(forward)
            [job] = api.jobs_of(RunOptions(folder, calib=calib, output=Path(scratch, f"out{round_}"), recipe="default"))
            quantize = _cpu_seconds(lambda: api.run(job))  # noqa: B023
            ratios.append(quantize / bare)
            print(f"bare forward {bare:.2f} s, quantize {quantize:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.2f}")


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
