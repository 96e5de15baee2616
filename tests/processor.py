"""Identifies the processor: floating-point results differ in their last bits between processors (docs/testing.md)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# Set by a run in which libraries use another processor's kernels (tests/other_processors).
SIMULATED = "FA3_SIMULATED_PROCESSOR"


def identity() -> dict[str, str]:
    """Return the processor's full name and the instruction set torch uses, as in the golden cases' MADE_ON.json."""
    return {
        "cpu": os.environ.get(SIMULATED) or _name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
