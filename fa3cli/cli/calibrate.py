"""Defines `fa3 calibrate`, the first half of quantize: finds all parameters and saves them without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.options import JsonLines, Nproc, with_options
from fa3cli.cli.running import run_command
from fa3cli.runs.options import EXPORTS, PIPELINES, RunOptions

__all__ = ["calibrate"]


@with_options(RunOptions, without=(EXPORTS, PIPELINES))
def calibrate(
    options: RunOptions,
    *,
    output: Annotated[
        Path, typer.Option(metavar="CALIBRATION", help="Folder for the parameters: small, without weights.")
    ],
    nproc: Nproc = 1,
    json: JsonLines = False,
) -> None:
    """Find all quantization parameters of a patched model and save them for fa3 export."""
    run_command("calibrate", replace(options, output=output), only_calibrate=True, nproc=nproc, as_json=json)
