"""Runs a job: observes, quantizes, writes and frees each layer in the order of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

from fa3cli import logger
from fa3cli.calibration.ranks import Ranks, joined_ranks
from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.exports.folder import RunFolder
from fa3cli.models.out_of_memory import memory_errors
from fa3cli.runs.calibration_folder import CalibrationWriter
from fa3cli.runs.disk_space import bytes_written, journal_bytes
from fa3cli.runs.finishing import finish
from fa3cli.runs.identity import differing, identity
from fa3cli.runs.job import Job
from fa3cli.runs.journal import Journal, NotResumableError, open_journal
from fa3cli.runs.layer_writer import LayerWriter
from fa3cli.runs.options import RESUME
from fa3cli.runs.passes import calibrate
from fa3cli.runs.progress import Progress
from fa3cli.runs.result import Result, read_result
from fa3cli.runs.streams.schedule import passes

__all__ = ["run"]


def run(
    job: Job,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Calibrate, then export for the job's targets or write the parameters; the output appears only when it is complete.

    A stopped run of the same identity is resumed (`resume`: auto, required or never). If its export is complete, its
    result is returned and nothing is done. Raises StoppedError after the layer at which `stop` returns True.
    """
    if resume not in RESUME:
        raise UsageError(f"--resume {resume}: expected one of {', '.join(RESUME)}")
    run_identity = identity(job)
    with joined_ranks(job.model.device) as ranks:
        _require_fit(ranks, job, run_identity)
        if earlier := read_result(job, run_identity):
            if ranks.leads:
                RunFolder(job.destination).sweep()
            return earlier
        # Checked here and not in preparing, which reads no weights.
        job.model.require_tied_alike()
        try:
            return _run(job, run_identity, ranks, progress, resume, stop)
        except NotResumableError as error:
            if resume == "required":
                raise
            logger.warning("%s: starting over", error)
            return _run(job, run_identity, ranks, progress, "never", stop)


def _run(
    job: Job,
    run_identity: dict[str, Any],
    ranks: Ranks,
    progress: Callable[[Progress], None],
    resume: str,
    stop: Callable[[], bool],
) -> Result:
    begin = time.monotonic()
    folder = RunFolder(job.destination, bytes_written(job) + journal_bytes(job, passes(job)))
    with folder if ranks.leads else nullcontext(), memory_errors(job.model.device):
        if ranks.leads:
            open_journal(folder, run_identity, resume)
        # A barrier: the other ranks read the journal only after the leading rank has kept or cleared it.
        ranks.gather(None)
        journal = Journal(folder, ranks)
        _require_one_folder(ranks, folder, journal)
        _require_visits_of(job, folder, journal)
        # Made within the folder's block: a pipeline stores its records there.
        job = job.with_samples(folder, ranks, progress, stop)
        make = LayerWriter if job.targets else CalibrationWriter
        # A journal entry exists only after the tensors outside the layers are on the disk.
        writer = make(job, folder, ranks, resumed=bool(journal.visits))
        layers = calibrate(job, progress, write=writer.add, journal=journal, ranks=ranks, stop=stop)
        return finish(job, folder, writer, layers, run_identity, begin, ranks)


def _require_one_folder(ranks: Ranks, folder: RunFolder, journal: Journal) -> None:
    """Raise ConflictError if ranks write into different folders of the same name."""
    # A random token, since the same path may be another disk on another machine.
    token = folder.scratch / "run"
    if ranks.leads:
        token.write_text(uuid4().hex)
    ranks.gather(None)
    # Read after the barrier, when rank 0 has written the token.
    seen = token.read_text() if token.is_file() else None
    for rank, other in enumerate(ranks.gather((seen, len(journal.visits)))):
        if other != (seen, len(journal.visits)):
            raise ConflictError(
                f"{folder.path}: rank {ranks.rank} and rank {rank} don't see the same files there",
                hint="give all ranks an --output on a disk that they share",
            )


def _require_visits_of(job: Job, folder: RunFolder, journal: Journal) -> None:
    """Raise ConflictError if a journal's entries are not the job's layers in their order."""
    parts = [*job.model.layers, *job.quantized_head] * len(passes(job))
    names = [visit.name for visit in journal.visits]
    if names != parts[: len(names)]:
        raise ConflictError(
            f"{folder.path}: its entries are not of this model's layers",
            hint="the same command with --resume never starts over",
        )


def _require_fit(ranks: Ranks, job: Job, run_identity: dict[str, Any]) -> None:
    """Raise UnsupportedError for the reference's numerics on several ranks, ConflictError if ranks differ in identity."""
    if ranks.size > 1 and job.settings.reference:
        raise UnsupportedError(
            f"numerics=reference on {ranks.size} ranks: the reference's statistics depend on the order of all samples",
            hint="run it on one rank, or choose --numerics improved",
        )
    for rank, other in enumerate(ranks.gather(run_identity)):
        if differs := differing(other, run_identity):
            raise ConflictError(
                f"rank {rank} and rank {ranks.rank} differ in {', '.join(differs)}",
                hint="all ranks need the same files, options, versions, processors and threads (OMP_NUM_THREADS)",
            )
