"""The run itself: every layer observed, quantized, written and freed, in the order of the model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fa3cli.calibration.identity import identity
from fa3cli.calibration.job import Job
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.passes import calibrate
from fa3cli.calibration.plan import plan
from fa3cli.calibration.progress import Progress
from fa3cli.calibration.result import LayerResult, Result, read_result, write_report
from fa3cli.calibration.smoothing import smooth
from fa3cli.calibration.writing import LayerWriter
from fa3cli.export.folder import StagedFolder, companions, export_config
from fa3cli.export.numpy_files import write_numpy

__all__ = ["replay", "run", "write_export"]


def run(job: Job, progress: Callable[[Progress], None] = lambda _: None) -> Result:
    """Calibrate and export; the output folder appears when all of it is there.

    Where the export of the same identity is there already, nothing is done and its result returned.
    """
    made_of = identity(job)
    if earlier := read_result(job.output, made_of):
        return earlier
    job.model.require_tied_alike()
    with closing(calibrate(job, progress)) as layers:
        return write_export(job, layers, made_of)


def replay(job: Job, layers: Sequence[LayerParameters]) -> Iterator[LayerParameters]:
    """Yield parameters that were found before; meanwhile the weights of the layer are loaded and smoothed."""
    for layer in layers:
        with job.model.loaded(job.model.needed(layer.name)):
            if not job.model.resident:
                smooth(job.model, layer.name, job.settings.anti_method, layer.smoothing)
            yield layer


def write_export(job: Job, layers: Iterable[LayerParameters], made_of: dict[str, Any] | None) -> Result:
    """Write each layer while it is loaded, and everything that belongs beside the weights."""
    begin = time.monotonic()
    with StagedFolder(job.output, plan(job).bytes_written) as folder:
        _write_companions(job, folder)
        writer, written = LayerWriter(job, folder), []
        for layer in layers:
            writer.add(layer)
            written.append(layer)
        weight_files, fallen = writer.close(written)
        files = _finish(job, folder, weight_files)
        result = Result(
            output=job.output,
            files=tuple(files),
            bytes_written=sum(files.values()),
            samples=len(job.samples),
            tokens=sum(sample.tokens for sample in job.samples),
            seconds=time.monotonic() - begin,
            layers=tuple(_layer_result(job, layer, fallen) for layer in written),
            warnings=(*(text for layer in written for text in layer.warnings), *writer.warnings),
        )
        write_report(folder, made_of, job.recipe, result)
    return result


def _write_companions(job: Job, folder: Path) -> None:
    for file in companions(job.folder) if job.folder else ():
        shutil.copyfile(file, folder / file.name)
    config = export_config(job.config, job.model.dtype)
    (folder / "config.json").write_text(config, encoding="utf-8")


def _finish(job: Job, folder: Path, weight_files: list[Path]) -> dict[str, int]:
    """Turn the weight files into the formats that were asked for; return all files with their sizes."""
    if "numpy" in job.save_types:
        write_numpy(folder, weight_files)
    if "safe_tensor" not in job.save_types:
        for file in folder.glob("*.safetensors*"):
            file.unlink()
    return {file.name: file.stat().st_size for file in sorted(folder.glob("[!.]*"))}


def _layer_result(job: Job, layer: LayerParameters, fallen: Collection[str]) -> LayerResult:
    kept = layer.attentions.keys() - fallen
    return LayerResult(
        name=layer.name,
        quantized=len(layer.linears),
        float_linears=tuple(name for name in job.model.linears(layer.name) if name not in layer.linears),
        fa=bool(kept) if job.model.attentions(layer.name) else None,
        fa_score=min(layer.scores.values(), default=None),
    )
