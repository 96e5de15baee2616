"""Reads and checks everything a pipeline's run needs, before any work, and makes one job per transformer."""

from __future__ import annotations

import os
from pathlib import Path

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.pipelines.job import TransformerJob
from fa3cli.pipelines.opening import open_pipeline
from fa3cli.pipelines.prompts import read_prompts
from fa3cli.pipelines.sampling import Sampling, require_accepted, steps_of
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import PIPELINE_SETTINGS, resolve_settings
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.job import make_job
from fa3cli.runs.options import WITHOUT_FA, RunOptions
from fa3cli.runs.target_fit import require_loadable

__all__ = ["prepare_pipeline"]


def prepare_pipeline(options: RunOptions, *, only_calibrate: bool = False) -> list[TransformerJob]:
    """Read and check everything; write nothing, and read no weights."""
    folder = Path(os.path.abspath(options.weights_dir))
    if only_calibrate:
        raise UnsupportedError(
            f"{folder}: a pipeline of diffusers is calibrated and exported in one run", hint="use fa3 quantize"
        )
    if options.prompts is None:
        raise UsageError(f"{folder}: a pipeline of diffusers needs --prompts, a file with one prompt per line")
    destination = where_to_save(options, pipelines=True)
    sampling = _sampling(options, Path(options.prompts))
    pipeline = open_pipeline(
        folder,
        fa=options.fa is not False,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        without_fa=WITHOUT_FA,
    )
    # `record` checks both again; here, errors come before any work.
    require_accepted(pipeline.pipeline_class, sampling)
    steps_of(pipeline.pipeline_class, sampling)
    jobs = []
    for component, model in pipeline.transformers.items():
        chosen = choose_recipe(options.recipe, type(model.model).__name__, list(model.linears()), default="diffusion")
        place = default_output(folder, options.output)
        job = make_job(
            model,
            resolve_settings(chosen.settings, options.settings, f"recipe {chosen.name}", PIPELINE_SETTINGS),
            (),
            kind=TransformerJob,
            # A block's states of one video are gigabytes, too large to wait in memory for all records.
            replayed=True,
            recipe=chosen.name,
            folder=folder / component,
            # Each transformer has a folder of its own; a single one has the output folder itself.
            output=place / component if len(pipeline.transformers) > 1 else place,
            config=pipeline.configs[component],
            pipeline=pipeline,
            component=component,
            sampling=sampling,
            **destination,
        )
        require_loadable(job)
        jobs.append(job)
    return jobs


def _sampling(options: RunOptions, prompts: Path) -> Sampling:
    return Sampling(
        read_prompts(prompts),
        options.steps,
        options.height,
        options.width,
        options.frames,
        options.guidance,
        options.seed or 0,
        options.max_records,
    )
