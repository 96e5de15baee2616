"""Reads and checks everything a run needs, before any work: config, patched code, headers, settings, samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fa3cli import patching
from fa3cli.models.opening import open_model
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import resolve_settings
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.job import Job, make_job
from fa3cli.runs.target_fit import require_loadable
from fa3cli.samples.dataset import DEFAULT_CALIBRATION, read_samples

__all__ = ["prepare"]


def prepare(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    calib: str | Path | None = None,
    samples: int | None = None,
    max_length: int | None = None,
    recipe: str | None = None,
    target: Sequence[str] = (),
    save_types: Sequence[str] = (),
    part_file_size: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    trust_remote_code: bool = False,
    only_plan: bool = False,
    only_calibrate: bool = False,
    **options: Any,
) -> Job:
    """Read and check everything; write nothing, and read no weights. `options` are QuantSettings.

    With `only_calibrate` the job has no targets. With `only_plan` the folder may lack weights and a tokenizer; such a
    job cannot run.
    """
    folder = Path(os.path.abspath(folder))
    destination = {"targets": ()} if only_calibrate else where_to_save(target, save_types, part_file_size)
    named = {} if recipe is None else choose_recipe(recipe, "", ()).settings
    if (options.get("numerics") or named.get("numerics")) == "reference":
        recipe = recipe or "none"
        attn_implementation = "eager" if attn_implementation == "auto" else attn_implementation
    model = open_model(
        folder,
        fa=options.get("fa") is not False,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        only_plan=only_plan,
    )
    # A composite model nests the config of its text part.
    text_config = getattr(model.config, "get_text_config", lambda: model.config)()
    chosen = choose_recipe(recipe, model.config.model_type, list(model.linears()))
    job = make_job(
        model,
        resolve_settings(chosen.settings, options, f"recipe {chosen.name}"),
        read_samples(
            Path(calib or DEFAULT_CALIBRATION),
            folder,
            count=samples,
            max_length=max_length,
            longest=getattr(text_config, "max_position_embeddings", None),
            vocab_size=getattr(text_config, "vocab_size", None),
            trust_remote_code=trust_remote_code,
            estimate=not model.has_weights,
        ),
        recipe=chosen.name,
        folder=folder,
        output=default_output(folder, output),
        config=patching.unpatched_config(folder),
        **destination,
    )
    require_loadable(job)
    return job
