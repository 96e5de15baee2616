"""The Python functions behind the commands; results are dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fa3cli.comparing.images import ImageComparison, compare_images
from fa3cli.comparing.text import Comparison, compare
from fa3cli.errors import Fa3Error, MissingCapabilityError
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.verification import VerificationReport, verify_export
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.pipelines.jobs import jobs_of
from fa3cli.planning.estimate import estimate_seconds
from fa3cli.planning.plan import Plan, plan, plan_warnings
from fa3cli.runs.exporting import export_calibration, prepare_export
from fa3cli.runs.identity import identity
from fa3cli.runs.job import Job
from fa3cli.runs.journal import has_records
from fa3cli.runs.options import RunOptions
from fa3cli.runs.progress import Progress
from fa3cli.runs.result import Result, read_result
from fa3cli.runs.run import run

__all__ = [
    "Comparison",
    "ImageComparison",
    "calibrate",
    "compare",
    "compare_images",
    "export",
    "export_calibration",
    "full_plan",
    "jobs_of",
    "left_by",
    "plan",
    "plan_warnings",
    "prepare_export",
    "prepare_jobs",
    "quantize",
    "quantize_all",
    "require_place",
    "run",
    "verify",
]


def quantize(
    weights_dir: str | Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    resume: str = "auto",
    **options: Any,
) -> Result:
    """Calibrate a patched weights folder and export it; `options` are those of `fa3 quantize`.

    Of a pipeline with several transformers the first one's result is returned; `quantize_all` returns all.
    """
    return quantize_all(weights_dir, progress=progress, resume=resume, **options)[0]


def quantize_all(
    weights_dir: str | Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    resume: str = "auto",
    **options: Any,
) -> list[Result]:
    """Calibrate and export a language model, or each transformer of a pipeline."""
    jobs = jobs_of(RunOptions.of(weights_dir, **options))
    return [run(job, progress, resume=how) for job, how in zip(jobs, ways_to_resume(jobs, resume))]


def prepare_jobs(weights_dir: str | Path, *, only_calibrate: bool = False, **options: Any) -> list[Job]:
    """Check everything for a language model, or for each transformer of a pipeline; writes nothing."""
    return jobs_of(RunOptions.of(weights_dir, **options), only_calibrate=only_calibrate)


def ways_to_resume(jobs: Sequence[Job], resume: str) -> list[str]:
    """Return each job's `resume`, once all have a place for their output: only one of several was stopped at a time.

    Raises what `require_place` raises.
    """
    if len(jobs) == 1:  # whose run asks by itself
        return [resume]
    for job in jobs:
        require_place(job, plan(job))
    stopped = [left_by(job) is not None for job in jobs]
    if resume != "required" or not any(stopped):
        return [resume] * len(jobs)
    return ["required" if each else "auto" for each in stopped]


def calibrate(
    weights_dir: str | Path,
    output: str | Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    resume: str = "auto",
    **options: Any,
) -> Result:
    """Find every parameter of a patched weights folder and keep them in a small folder, without weights."""
    [job] = jobs_of(RunOptions.of(weights_dir, output=output, **options), only_calibrate=True)
    return run(job, progress, resume=resume)


def export(
    weights_dir: str | Path,
    calibration: str | Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    **options: Any,
) -> Result:
    """Export a weights folder with the parameters of a calibration of it; `options` are those of `fa3 export`."""
    return export_calibration(
        *prepare_export(RunOptions.of(weights_dir, **options), Path(calibration)), progress
    )


def full_plan(job: Job) -> Plan:
    """Return a job's plan with the time a run takes, a layer having been timed; raises what `require_place` raises.

    Without weights there will be no run on this machine so soon: that the disk lacks room is a warning then.
    """
    planned, warnings = plan(job), []
    if job.replayed:  # a record's size is not known before there is one
        require_place(job, planned)
        return planned
    try:
        require_place(job, planned)
    except MissingCapabilityError as error:
        if not isinstance(job.model, StreamedModel) or job.model.has_weights:
            raise
        warnings.append(str(error))
    try:
        seconds = estimate_seconds(job, planned)
    except Fa3Error as error:
        seconds = None
        warnings.append(f"no layer could be timed: {error}")
    return replace(planned, seconds=seconds, warnings=(*planned.warnings, *warnings))


def require_place(job: Job, planned: Plan) -> None:
    """Raise what a run of this job would raise of its output: taken, or no room; a finished one is fine."""
    if job.output is not None and read_result(job, identity(job)) is None:
        RunFolder(job.output, planned.bytes_written + planned.journal_bytes).require_place()


def left_by(job: Job) -> Path | None:
    """Return the folder from which the same run would go on, if there is one."""
    folder = RunFolder(job.output) if job.output is not None else None
    return folder.path if folder and has_records(folder) else None


def verify(export_dir: str | Path, *, targets: Sequence[str] = ()) -> VerificationReport:
    """Check that an export is one the engines named can load; without any, the one it was written for."""
    return verify_export(Path(export_dir), targets)
