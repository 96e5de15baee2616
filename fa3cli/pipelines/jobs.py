"""Makes the jobs of a folder: one for a language model, one per transformer of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fa3cli import patching
from fa3cli.errors import InvalidInputError, UsageError
from fa3cli.runs.job import Job
from fa3cli.runs.preparing import prepare

__all__ = ["prepare_jobs"]

_PIPELINE_OPTIONS = ("prompts", "steps", "height", "width", "frames", "guidance", "seed", "max_records")
_LANGUAGE_MODEL_OPTIONS = ("calib", "samples", "max_length", "attn_implementation")


def prepare_jobs(folder: str | Path, **options: Any) -> list[Job]:
    """Read and check everything for a folder of either kind; writes nothing and reads no weights.

    `options` are those of `prepare` or `prepare_pipeline`; raises UsageError for an option of the other kind.
    """
    if not Path(folder).is_dir():
        raise InvalidInputError(
            f"{folder}: no such folder", hint="give the folder of the weights or the pipeline"
        )
    pipeline = patching.is_pipeline(folder)
    foreign = _LANGUAGE_MODEL_OPTIONS if pipeline else _PIPELINE_OPTIONS
    for name in foreign:
        if options.pop(name, None) not in (None, "auto"):
            kinds = ("a pipeline of diffusers", "language models")
            found, wanted = kinds if pipeline else ("a language model", "pipelines of diffusers")
            raise UsageError(
                f"{folder}: {name} (--{name.replace('_', '-')}) is for {wanted}, and this is {found}"
            )
    if not pipeline:
        return [prepare(folder, **options)]
    from fa3cli.pipelines.preparing import prepare_pipeline

    return list(prepare_pipeline(folder, **options))
