"""Offers the commands as Python functions that return dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fa3cli.comparing.images import ImageComparison, compare_images
from fa3cli.comparing.text import Comparison, compare
from fa3cli.errors import Fa3Error, MissingCapabilityError, UsageError
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.verification import VerificationReport, verify_export
from fa3cli.models.export_skeleton import tensors_expected_in
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.options import takes
from fa3cli.pipelines.jobs import jobs_of
from fa3cli.planning.estimate import estimate_seconds
from fa3cli.planning.plan import Plan, plan, plan_warnings
from fa3cli.runs.exporting import export_calibration, prepare_export
from fa3cli.runs.identity import identity
from fa3cli.runs.job import Job
from fa3cli.runs.journal import has_records
from fa3cli.runs.options import ExportOptions, RunOptions
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
    "quantize",
    "quantize_all",
    "require_place",
    "run",
    "verify",
]


@takes(RunOptions)
def quantize(options: RunOptions) -> Result:
    """Calibrate a patched weights folder and export it.

    If a pipeline has several transformers, the result of the first is returned; `quantize_all` returns all results.
    """
    return _quantize(options)[0]


@takes(RunOptions)
def quantize_all(options: RunOptions) -> list[Result]:
    """Calibrate and export a language model, or each transformer of a pipeline."""
    return _quantize(options)


def _quantize(options: RunOptions) -> list[Result]:
    jobs = jobs_of(options)
    return [run(job, options.progress, resume=how) for job, how in zip(jobs, ways_to_resume(jobs, options.resume))]


def ways_to_resume(jobs: Sequence[Job], resume: str) -> list[str]:
    """Return the `resume` value of each job: only one of several jobs can have been stopped, so others start anew.

    Raises the errors of `require_place`, so that no job starts if the output of another is refused.
    """
    if len(jobs) == 1:  # its run calls require_place itself
        return [resume]
    for job in jobs:
        require_place(job, plan(job))
    stopped = [left_by(job) is not None for job in jobs]
    if resume != "required" or not any(stopped):
        return [resume] * len(jobs)
    return ["required" if was_stopped else "auto" for was_stopped in stopped]


@takes(RunOptions)
def calibrate(options: RunOptions) -> Result:
    """Find all parameters of a patched weights folder and write them to `output`, a small folder without weights."""
    if options.output is None:
        raise UsageError("calibrate needs output, the folder for the parameters")
    [job] = jobs_of(options, only_calibrate=True)
    return run(job, options.progress, resume=options.resume)


@takes(ExportOptions)
def export(options: ExportOptions) -> Result:
    """Export a weights folder with the parameters of its calibration."""
    return export_calibration(*prepare_export(options), options.progress)


def full_plan(job: Job) -> Plan:
    """Return a job's plan with an estimated run time, for which one layer is timed; raises as `require_place` does.

    If the weights are missing, a full disk is only a warning: the run will be on another machine or later.
    """
    planned, warnings = plan(job), []
    if job.replayed:  # the size of a recorded call is unknown before the sampling
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
    """Raise the error of a run whose output exists or does not fit the disk; an output of the same run is accepted."""
    if job.output is not None and read_result(job, identity(job)) is None:
        RunFolder(job.output, planned.bytes_written + planned.journal_bytes).require_place()


def left_by(job: Job) -> Path | None:
    """Return the folder from which a stopped run would resume, if there is one."""
    folder = RunFolder(job.output) if job.output is not None else None
    return folder.path if folder and has_records(folder) else None


def verify(export_dir: str | Path, *, targets: Sequence[str] = ()) -> VerificationReport:
    """Check that the engines of these targets (by default: of the export's own target) can load an export."""
    return verify_export(Path(export_dir), targets, tensors_expected_in)
