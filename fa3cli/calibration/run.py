"""The run itself: every layer observed, quantized, written and freed, in the order of the model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from fa3cli import logger
from fa3cli.calibration.identity import differing, identity
from fa3cli.calibration.job import Job
from fa3cli.calibration.journal import Journal, NotResumableError, open_journal, require_nothing_kept
from fa3cli.calibration.out_of_memory import memory_errors
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.passes import calibrate
from fa3cli.calibration.plan import plan
from fa3cli.calibration.progress import Progress
from fa3cli.calibration.ranks import Ranks, joined_ranks
from fa3cli.calibration.result import REPORT_FILE, LayerResult, Result, read_result, write_report
from fa3cli.calibration.smoothing import smooth
from fa3cli.calibration.writing import LayerWriter
from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.export.companions import companions, export_config
from fa3cli.export.folder import RunFolder
from fa3cli.export.numpy_files import write_numpy

__all__ = ["RESUME", "export_layers", "run"]

RESUME = ("auto", "required", "never")


def run(
    job: Job,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Calibrate and export; the output folder appears when all of it is there.

    What an earlier run of the same identity left is continued (`resume`: auto, required or never); where its export is
    complete, nothing is done and its result returned. Raises StoppedError behind the layer at which `stop` says so.
    """
    if resume not in RESUME:
        raise UsageError(f"--resume {resume}: expected one of {', '.join(RESUME)}")
    made_of = identity(job)
    with joined_ranks(job.model.device) as ranks:
        _require_fit(ranks, job, made_of)
        if earlier := read_result(job.output, made_of):
            if ranks.leads:
                RunFolder(job.output).sweep()
            return earlier
        job.model.require_tied_alike()
        try:
            return _run(job, made_of, ranks, progress, resume, stop)
        except NotResumableError as error:
            if resume == "required":
                raise
            logger.warning("%s: starting over", error)
            return _run(job, made_of, ranks, progress, "never", stop)


def _run(
    job: Job,
    made_of: dict[str, Any],
    ranks: Ranks,
    progress: Callable[[Progress], None],
    resume: str,
    stop: Callable[[], bool],
) -> Result:
    begin, planned = time.monotonic(), plan(job)
    folder = RunFolder(job.output, planned.bytes_written + planned.journal_bytes)
    with folder if ranks.leads else nullcontext(), memory_errors(job.model.device):
        if ranks.leads:
            open_journal(folder, made_of, resume)
        ranks.gather(None)
        journal = Journal(folder, ranks)
        _require_one_folder(ranks, folder, journal)
        writer = LayerWriter(job, folder, ranks, resumed=bool(journal.visits))
        layers = calibrate(job, progress, write=writer.add, journal=journal, ranks=ranks, stop=stop)
        result = _finish(job, folder, writer, layers, made_of, begin) if ranks.leads else writer.close(layers)
        return ranks.first(result)


def _require_one_folder(ranks: Ranks, folder: RunFolder, journal: Journal) -> None:
    """Raise ConflictError where ranks write into different folders of the same name."""
    token = folder.scratch / "run"
    if ranks.leads:
        token.write_text(uuid4().hex)
    ranks.gather(None)
    seen = token.read_text() if token.is_file() else None
    for rank, other in enumerate(ranks.gather((seen, len(journal.visits)))):
        if other != (seen, len(journal.visits)):
            raise ConflictError(
                f"{folder.path}: rank {ranks.rank} and rank {rank} don't see the same files there",
                hint="give all ranks an --output on a disk that they share",
            )


def export_layers(job: Job, layers: Sequence[LayerParameters]) -> Result:
    """Write the export of a job whose parameters were found before."""
    begin = time.monotonic()
    with RunFolder(job.output, plan(job).bytes_written) as folder:
        require_nothing_kept(folder)
        folder.clear()
        writer, written = LayerWriter(job, folder), []
        for layer in layers:
            with job.model.loaded(job.model.needed(layer.name)):
                if not job.model.resident:
                    smooth(job.model, layer.name, job.settings.anti_method, layer.smoothing)
                warnings = writer.add(layer).values()
            written.append(replace(layer, warnings=(*layer.warnings, *warnings)))
        return _finish(job, folder, writer, written, None, begin)


def _require_fit(ranks: Ranks, job: Job, made_of: dict[str, Any]) -> None:
    """Raise UnsupportedError for numerics that more than one rank can't have, ConflictError for ranks that differ."""
    if ranks.size > 1 and job.settings.reference:
        raise UnsupportedError(
            f"numerics=reference on {ranks.size} ranks: the reference's statistics depend on the order of all samples",
            hint="run it on one rank, or choose --numerics improved",
        )
    for rank, other in enumerate(ranks.gather(made_of)):
        if differs := differing(other, made_of):
            raise ConflictError(
                f"rank {rank} and rank {ranks.rank} differ in {', '.join(differs)}",
                hint="all ranks need the same files, options, versions, processors and threads (OMP_NUM_THREADS)",
            )


def _finish(
    job: Job,
    folder: RunFolder,
    writer: LayerWriter,
    layers: Sequence[LayerParameters],
    made_of: dict[str, Any] | None,
    begin: float,
) -> Result:
    """Write the rest of an export and everything that belongs beside the weights."""
    weight_files, fallen = writer.close(layers)
    _write_companions(job, folder.export)
    if "numpy" in job.save_types:
        write_numpy(folder.export, weight_files)
    files = {
        file.name: file.stat().st_size for file in sorted(folder.export.iterdir()) if file.name != REPORT_FILE
    }
    result = Result(
        output=job.output,
        files=tuple(files),
        bytes_written=sum(files.values()),
        samples=len(job.samples),
        tokens=sum(sample.tokens for sample in job.samples),
        seconds=time.monotonic() - begin,
        layers=tuple(_layer_result(job, layer, fallen) for layer in layers),
        warnings=tuple(text for layer in layers for text in layer.warnings),
    )
    write_report(folder.export, made_of, job.recipe, result)
    return result


def _write_companions(job: Job, folder: Path) -> None:
    for file in companions(job.folder) if job.folder else ():
        shutil.copyfile(file, folder / file.name)
    config = export_config(job.config, job.model.dtype)
    (folder / "config.json").write_text(config, encoding="utf-8")


def _layer_result(job: Job, layer: LayerParameters, fallen: Collection[str]) -> LayerResult:
    kept = layer.attentions.keys() - fallen
    return LayerResult(
        name=layer.name,
        quantized=len(layer.linears),
        float_linears=tuple(name for name in job.model.linears(layer.name) if name not in layer.linears),
        fa=bool(kept) if job.model.attentions(layer.name) else None,
        fa_score=min(layer.scores.values(), default=None),
        error=layer.error,
    )
