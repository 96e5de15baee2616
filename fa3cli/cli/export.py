"""Defines `fa3 export`, the second half of quantize: writes exports from weights and a calibration, on the CPU."""

from __future__ import annotations

from fa3cli.cli.console import note, warn
from fa3cli.cli.options import JsonLines, with_options
from fa3cli.cli.running import show_result
from fa3cli.runs.options import ExportOptions

__all__ = ["export"]


@with_options(ExportOptions)
def export(options: ExportOptions, *, json: JsonLines = False) -> None:
    """Export a calibrated model for one or several engines; reads the weights once, runs no samples."""
    from fa3cli import api
    from fa3cli.cli.progress_bar import show_progress

    job, found = api.prepare_export(options)
    for warning in api.plan_warnings(job, found.layers):
        warn(warning)
    note(f"targets: {', '.join(engine.name for engine in job.targets)}, from {options.calibration}")
    with show_progress("export", as_json=json) as progress:
        result = api.export_calibration(job, found, progress)
    show_result(result, as_json=json)
