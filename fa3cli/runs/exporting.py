"""Writes exports from the parameters of an earlier calibration: one layer's weights at a time, on the CPU, no samples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fa3cli import patching
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.smoothing import smooth
from fa3cli.errors import ConflictError
from fa3cli.exports.folder import RunFolder
from fa3cli.models.opening import open_model
from fa3cli.quantization.settings import ResolvedSettings
from fa3cli.runs.calibration_folder import Calibration, read_calibration, require_complete
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.disk_space import bytes_written
from fa3cli.runs.finishing import finish
from fa3cli.runs.identity import differing, export_identity, source_identity
from fa3cli.runs.job import Job, make_job
from fa3cli.runs.journal import require_nothing_kept
from fa3cli.runs.layer_writer import LayerWriter
from fa3cli.runs.options import ExportOptions
from fa3cli.runs.progress import Progress, Ticks
from fa3cli.runs.result import Result, read_result
from fa3cli.runs.target_fit import require_loadable

__all__ = ["ExportJob", "export_calibration", "export_layers", "prepare_export"]


@dataclass(frozen=True)
class ExportJob(Job):
    """A job from an earlier calibration: it has no samples, only the numbers of samples and tokens."""

    sample_count: int = 0
    token_count: int = 0


def prepare_export(options: ExportOptions) -> tuple[ExportJob, Calibration]:
    """Read and check everything for exports of a calibration; nothing is written.

    Raises ConflictError if the weights folder is not the one that was calibrated.
    """
    folder = Path(os.path.abspath(options.weights_dir))
    destination = where_to_save(options)
    found = read_calibration(Path(options.calibration))
    model = open_model(
        folder, fa=found.settings.fa, device="cpu", dtype=found.dtype, trust_remote_code=options.trust_remote_code
    )
    origins = {field.name: "calibration" for field in fields(found.settings)}
    job = make_job(
        model,
        ResolvedSettings(found.settings, origins),
        (),
        kind=ExportJob,
        sample_count=found.samples,
        token_count=found.tokens,
        recipe=found.recipe,
        folder=folder,
        output=default_output(folder, options.output),
        config=patching.unpatched_config(folder),
        **destination,
    )
    _require_source(job, found)
    require_complete(job, found)
    require_loadable(job, found.layers)
    return job, found


def export_calibration(
    job: ExportJob, found: Calibration, report: Callable[[Progress], None] = lambda _: None
) -> Result:
    """Write the exports that `prepare_export` has checked, unless they exist already."""
    run_identity = export_identity(found.identity, job)
    if earlier := read_result(job, run_identity):
        RunFolder(job.destination).sweep()
        return earlier
    return export_layers(job, found.layers, run_identity, report)


def export_layers(
    job: Job,
    layers: Sequence[LayerParameters],
    run_identity: dict[str, Any] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Write the exports of a job from its parameters."""
    begin = time.monotonic()
    ticks, written = Ticks(len(layers), len(layers), report), []
    with RunFolder(job.destination, bytes_written(job)) as folder:
        require_nothing_kept(folder)
        folder.clear()
        writer = LayerWriter(job, folder)
        for layer in layers:
            ticks.sample_begins()
            names = job.model.needed(layer.name)
            with job.model.loaded(names):
                # A resident model was smoothed in place when the scales were found.
                if not job.model.resident:
                    smooth(job.model, layer.name, job.settings.anti_method, layer.smoothing)
                warnings = writer.add(layer).values()
            written.append(replace(layer, warnings=(*layer.warnings, *warnings)))
            ticks.layer_ends(job.model.nbytes(*names))
        return finish(job, folder, writer, written, run_identity, begin)


def _require_source(job: ExportJob, found: Calibration) -> None:
    """Raise ConflictError if the weights folder differs from the calibrated one."""
    # Only weights, config and files must be the same: device, threads and versions may differ.
    source = source_identity(job)
    if differs := differing({name: found.identity.get(name) for name in source}, source):
        raise ConflictError(
            f"{job.folder}: not the folder that {found.folder} was calibrated from; different {', '.join(differs)}",
            hint="give the weights folder that fa3 calibrate ran on, patched as it was then (under transformers "
            f"{found.transformers}), or calibrate this one",
        )
