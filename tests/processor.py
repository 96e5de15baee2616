"""The processor the tests run on: sums and products of floats have other last bits on another one (docs/testing.md)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# A run that makes libraries take another processor's kernels says so here (tests/other_processors).
SIMULATED = "FA3_SIMULATED_PROCESSOR"


def identity() -> dict[str, str]:
    """The processor's full name and what torch was made to use of it, as the golden cases' MADE_ON.json has them."""
    return {
        "cpu": os.environ.get(SIMULATED) or _name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
