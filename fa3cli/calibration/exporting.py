"""From parameters that were found before to exports: a layer's weights at a time, on the CPU, without any sample."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fa3cli import patching
from fa3cli.calibration.calibration_folder import Calibration, read_calibration
from fa3cli.calibration.destination import default_output, where_to_save
from fa3cli.calibration.disk_space import bytes_written
from fa3cli.calibration.finishing import finish
from fa3cli.calibration.identity import differing, export_identity, source_identity
from fa3cli.calibration.job import Job, make_job
from fa3cli.calibration.journal import require_nothing_kept
from fa3cli.calibration.opening import open_model
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.progress import Progress, Ticks
from fa3cli.calibration.result import Result, read_result
from fa3cli.calibration.smoothing import smooth
from fa3cli.calibration.target_fit import require_loadable
from fa3cli.calibration.writing import LayerWriter
from fa3cli.errors import ConflictError
from fa3cli.export.folder import RunFolder
from fa3cli.quantization.settings import QuantSettings, ResolvedSettings

__all__ = ["ExportJob", "export_layers", "prepare_export"]


@dataclass(frozen=True)
class ExportJob(Job):
    """A job whose samples were seen by the run that calibrated it; their numbers are what is left of them."""

    sample_count: int = 0
    token_count: int = 0


def prepare_export(
    folder: str | Path,
    calibration: str | Path,
    *,
    output: str | Path | None = None,
    target: Sequence[str] = (),
    save_types: Sequence[str] = (),
    part_file_size: float | None = None,
    trust_remote_code: bool = False,
) -> tuple[ExportJob, Calibration, dict[str, Any]]:
    """Read and check everything for exports of a calibration; nothing is written. The last is their identity.

    Raises ConflictError where the weights folder is not the one that was calibrated.
    """
    folder = Path(os.path.abspath(folder))
    destination = where_to_save(target, save_types, part_file_size)
    found = read_calibration(Path(calibration))
    settings = _settings(found)
    model = open_model(
        folder,
        fa=settings.fa,
        device="cpu",
        dtype=str(found.identity["dtype"]).removeprefix("torch."),
        attn_implementation="auto",
        trust_remote_code=trust_remote_code,
    )
    job = make_job(
        model,
        ResolvedSettings(settings, {field.name: "calibration" for field in fields(settings)}),
        (),
        kind=ExportJob,
        sample_count=found.samples,
        token_count=found.tokens,
        recipe=found.recipe,
        folder=folder,
        output=default_output(folder, output),
        config=patching.unpatched_config(folder),
        **destination,
    )
    source = source_identity(job)
    if differs := differing({name: found.identity.get(name) for name in source}, source):
        raise ConflictError(
            f"{folder}: not what {calibration} was calibrated from; other {', '.join(differs)}",
            hint="name the weights folder that fa3 calibrate ran on, or calibrate this one",
        )
    require_loadable(job, found.layers)
    return job, found, export_identity(found.identity, job)


def export_layers(
    job: Job,
    layers: Sequence[LayerParameters],
    made_of: dict[str, Any] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Write the exports of a job whose parameters were found before; with an identity, only if they aren't there."""
    begin = time.monotonic()
    if made_of and (earlier := read_result(job, made_of)):
        RunFolder(job.output).sweep()
        return earlier
    ticks, written = Ticks(len(layers), len(layers), report), []
    with RunFolder(job.output, bytes_written(job)) as folder:
        require_nothing_kept(folder)
        folder.clear()
        writer = LayerWriter(job, folder)
        for layer in layers:
            ticks.sample_begins()
            names = job.model.needed(layer.name)
            with job.model.loaded(names):
                if not job.model.resident:
                    smooth(job.model, layer.name, job.settings.anti_method, layer.smoothing)
                warnings = writer.add(layer).values()
            written.append(replace(layer, warnings=(*layer.warnings, *warnings)))
            ticks.layer_ends(job.model.nbytes(*names))
        return finish(job, folder, writer, written, made_of, begin)


def _settings(found: Calibration) -> QuantSettings:
    values = found.identity["settings"]
    return QuantSettings(**values | {"disable_names": tuple(values["disable_names"])})
