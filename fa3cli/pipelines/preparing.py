"""Reads and checks everything a pipeline's run needs, before any work, and makes one job per transformer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.pipelines.job import TransformerJob
from fa3cli.pipelines.opening import open_pipeline
from fa3cli.pipelines.prompts import read_prompts
from fa3cli.pipelines.sampling import Sampling, require_accepted, steps_of
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import PIPELINE_SETTINGS, resolve_settings
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.job import make_job
from fa3cli.runs.target_fit import require_loadable

__all__ = ["prepare_pipeline"]


def prepare_pipeline(
    folder: str | Path,
    *,
    prompts: str | Path | None = None,
    output: str | Path | None = None,
    recipe: str | None = None,
    target: Sequence[str] = (),
    save_types: Sequence[str] = (),
    part_file_size: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    only_plan: bool = False,
    only_calibrate: bool = False,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    max_records: int | None = None,
    **options: Any,
) -> list[TransformerJob]:
    """Read and check everything; write nothing, and read no weights. `options` are QuantSettings."""
    folder = Path(os.path.abspath(folder))
    if only_calibrate:
        raise UnsupportedError(
            f"{folder}: a pipeline of diffusers is calibrated and exported in one run",
            hint="use fa3 quantize",
        )
    if prompts is None:
        raise UsageError(
            f"{folder}: a pipeline of diffusers needs --prompts, a file with one prompt per line"
        )
    destination = where_to_save(target, save_types, part_file_size, pipelines=True)
    sampling = Sampling(
        read_prompts(Path(prompts)), steps, height, width, frames, guidance, seed or 0, max_records
    )
    pipeline = open_pipeline(
        folder,
        fa=options.get("fa") is not False,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    require_accepted(pipeline.pipeline_class, sampling)
    steps_of(pipeline.pipeline_class, sampling)
    jobs = []
    for component, model in pipeline.transformers.items():
        chosen = choose_recipe(recipe, type(model.model).__name__, list(model.linears()), default="diffusion")
        place = default_output(folder, output)
        job = make_job(
            model,
            resolve_settings(chosen.settings, options, f"recipe {chosen.name}", PIPELINE_SETTINGS),
            (),
            kind=TransformerJob,
            replayed=True,
            recipe=chosen.name,
            folder=folder / component,
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
