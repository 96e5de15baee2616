"""Defines `fa3 export`, the second half of quantize: writes exports from weights and a calibration, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.console import note, warn
from fa3cli.cli.options import Json, with_options
from fa3cli.cli.running import show_result
from fa3cli.runs.options import RunOptions

__all__ = ["export"]


@with_options(("save_types", "target", "part_file_size", "output", "trust_remote_code"))
def export(
    options: RunOptions,
    *,
    weights_dir: Annotated[Path, typer.Argument(metavar="WEIGHTS_DIR", help="Weights folder that was calibrated.")],
    calibration: Annotated[Path, typer.Option(metavar="CALIBRATION", help="Folder that fa3 calibrate wrote.")],
    json: Json = False,
) -> None:
    """Export a calibrated model for one or several engines; reads the weights once, runs no samples."""
    from fa3cli import api
    from fa3cli.cli.progress_bar import show_progress

    job, found = api.prepare_export(replace(options, weights_dir=weights_dir), calibration)
    for warning in api.plan_warnings(job, found.layers):
        warn(warning)
    note(f"targets: {', '.join(engine.name for engine in job.targets)}, from {calibration}")
    with show_progress("export", as_json=json) as progress:
        result = api.export_calibration(job, found, progress)
    show_result(result, as_json=json)
