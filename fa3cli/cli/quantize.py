"""Defines `fa3 quantize`, which calibrates a patched weights folder and exports int8 weights and FA3 scales."""

from __future__ import annotations

from fa3cli.cli.options import JsonLines, Nproc, with_options
from fa3cli.cli.running import run_command
from fa3cli.runs.options import RunOptions

__all__ = ["quantize"]


@with_options(RunOptions)
def quantize(options: RunOptions, *, nproc: Nproc = 1, json: JsonLines = False) -> None:
    """Calibrate a patched model or pipeline layer by layer and export W8A8 weights and int8 q, k, v scales."""
    run_command("quantize", options, nproc=nproc, as_json=json)
