"""Makes the jobs of a folder: one for a language model, one per transformer of a pipeline."""

from __future__ import annotations

from pathlib import Path

from fa3cli import patching
from fa3cli.errors import InvalidInputError, UsageError
from fa3cli.runs.job import Job
from fa3cli.runs.options import PIPELINES, TEXT, RunOptions, named
from fa3cli.runs.preparing import prepare

__all__ = ["jobs_of"]


def jobs_of(options: RunOptions, *, only_calibrate: bool = False) -> list[Job]:
    """Read and check everything for a folder of either kind; writes nothing and reads no weights.

    Raises UsageError for an option of the other kind.
    """
    folder = Path(options.weights_dir)
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "no such folder"
        raise InvalidInputError(f"{folder}: {found}", hint="give the folder of the weights or the pipeline")
    pipeline = patching.is_pipeline(folder)
    kinds = (
        ("a pipeline of diffusers", "language models") if pipeline else ("a language model", "pipelines of diffusers")
    )
    if foreign := [name for name in named(TEXT if pipeline else PIPELINES) if name in options.given]:
        name = foreign[0]
        raise UsageError(f"{folder}: {name} (--{name.replace('_', '-')}) is for {kinds[1]}, and this is {kinds[0]}")
    if not pipeline:
        return [prepare(options, only_calibrate=only_calibrate)]
    # Imported here: language models do not need diffusers.
    from fa3cli.pipelines.preparing import prepare_pipeline

    return list(prepare_pipeline(options, only_calibrate=only_calibrate))
