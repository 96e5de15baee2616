"""Defines `fa3 export`, the second half of quantize: writes exports from weights and a calibration, on no device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.console import note, warn
from fa3cli.cli.options import Json, PartFileSize, SaveTypes, Targets, TrustRemoteCode, values
from fa3cli.cli.running import show_result

__all__ = ["export"]


def export(
    weights_dir: Annotated[
        Path, typer.Argument(metavar="WEIGHTS_DIR", help="Weights folder that was calibrated.")
    ],
    calibration: Annotated[
        Path, typer.Option(metavar="CALIBRATION", help="Folder that fa3 calibrate wrote.")
    ],
    output: Annotated[Path | None, typer.Option(help="Export folder [<WEIGHTS_DIR>-w8a8-fa3].")] = None,
    save_type: SaveTypes = None,
    target: Targets = None,
    part_file_size: PartFileSize = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Export a calibrated model for one engine or several; reads the weights once, runs no sample."""
    from fa3cli import api
    from fa3cli.cli.progress_bar import show_progress

    job, found = api.prepare_export(
        weights_dir,
        calibration,
        output=output,
        save_types=values(save_type),
        target=values(target),
        part_file_size=part_file_size,
        trust_remote_code=trust_remote_code,
    )
    for warning in api.plan_warnings(job, found.layers):
        warn(warning)
    note(f"targets: {', '.join(engine.name for engine in job.targets)}, from {calibration}")
    with show_progress("export", as_json=json) as progress:
        result = api.export_calibration(job, found, progress)
    show_result(result, as_json=json)
