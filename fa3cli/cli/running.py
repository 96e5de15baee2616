"""Runs quantize and calibrate after the options are read: in one or several processes, as a plan or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from fa3cli.cli.console import note, print_event, print_json, warn
from fa3cli.cli.launch import launch, launched_rank, rank_command

if TYPE_CHECKING:
    from fa3cli.planning.plan import Plan
    from fa3cli.runs.job import Job
    from fa3cli.runs.options import RunOptions
    from fa3cli.runs.result import Result

__all__ = ["run_command", "show_result"]


def run_command(command: str, options: RunOptions, *, only_calibrate: bool = False, nproc: int, as_json: bool) -> None:
    """Prepare jobs and run them, or print their plans; only the leading rank prints."""
    rank = launched_rank()
    if nproc > 1 and rank is None and not options.only_plan:
        raise typer.Exit(launch(nproc, rank_command()))
    if rank and options.only_plan:
        return
    from fa3cli import api
    from fa3cli.cli.interrupts import first_interrupt

    jobs = api.jobs_of(options, only_calibrate=only_calibrate)
    if options.only_plan:
        _show_plans([api.full_plan(job) for job in jobs], as_json=as_json)
        return
    for job, resume in zip(jobs, api.ways_to_resume(jobs, options.resume)):
        if rank:
            with first_interrupt(lambda _: None) as stop:
                api.run(job, resume=resume, stop=stop)
        else:
            _run_leading_rank(command, job, resume, as_json=as_json)


def _show_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    """Print one plan, or one per transformer of a pipeline."""
    from fa3cli.cli.quantize_tables import print_plan

    for planned in plans:
        for warning in planned.warnings:
            warn(warning)
        if not as_json:
            print_plan(planned)
    if as_json:
        print_json(plans[0] if len(plans) == 1 else list(map(asdict, plans)))


def _run_leading_rank(command: str, job: Job, resume: str, *, as_json: bool) -> None:
    """Print warnings and settings of a job, run it and print the result."""
    from fa3cli import api
    from fa3cli.cli.quantize_tables import settings_text

    planned = api.plan(job)
    for warning in planned.warnings:
        warn(warning)
    note(f"settings: {settings_text(planned)}")
    show_result(_run(command, job, resume, as_json=as_json), as_json=as_json)


def _run(command: str, job: Job, resume: str, *, as_json: bool) -> Result:
    """Run a job; print from which folder it resumes, or will resume after an interrupt."""
    from fa3cli import api
    from fa3cli.cli.interrupts import first_interrupt
    from fa3cli.cli.progress_bar import show_progress

    if resume != "never" and (left := api.left_by(job)):
        note(f"{left}: left by a stopped run; resuming from it")
    try:
        with show_progress(command, as_json=as_json) as progress, first_interrupt(note) as stop:
            return api.run(job, progress, resume=resume, stop=stop)
    except KeyboardInterrupt:
        if left := api.left_by(job):
            note(f"{left}: the same command will resume from it")
        raise


def show_result(result: Result, *, as_json: bool) -> None:
    """Print the result, or a note that it exists already."""
    from fa3cli.cli.quantize_tables import print_result

    if result.already_there:
        note(f"{result.output}: exactly this result exists already, nothing to do")
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_event("result", result)
    elif not result.already_there:
        print_result(result)
