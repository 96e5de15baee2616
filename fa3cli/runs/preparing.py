"""Reads and checks everything a run needs, before any work: config, patched code, headers, settings, samples."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fa3cli import patching
from fa3cli.exports.limits import without_float32
from fa3cli.models.opening import open_model
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import ResolvedSettings, resolve_settings
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.job import Job, make_job
from fa3cli.runs.options import WITHOUT_FA, RunOptions
from fa3cli.runs.target_fit import require_loadable
from fa3cli.samples.dataset import DEFAULT_CALIBRATION, read_samples

__all__ = ["prepare"]


def prepare(options: RunOptions, *, only_calibrate: bool = False) -> Job:
    """Read and check everything; write nothing, and read no weights.

    With `only_calibrate` the job has no targets. With `only_plan` the folder may lack weights and a tokenizer; such a
    job cannot run.
    """
    folder = Path(os.path.abspath(options.weights_dir))
    destination = {"targets": ()} if only_calibrate else where_to_save(options)
    recipe, attn_implementation = options.recipe, options.attn_implementation
    # Read before the model is opened: the numerics, which a recipe may set, decide its attention.
    named = {} if recipe is None else choose_recipe(recipe, "", ()).settings
    if (options.numerics or named.get("numerics")) == "reference":
        # Like the reference: eager attention, and no recipe unless one is named.
        recipe = recipe or "none"
        attn_implementation = "eager" if attn_implementation == "auto" else attn_implementation
    # A calibration is for any target.
    fa = options.fa is not False and (
        only_calibrate or any(target.stores_attention for target in destination["targets"])
    )
    model = open_model(
        folder,
        fa=fa,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=options.trust_remote_code,
        only_plan=options.only_plan,
        without_fa=WITHOUT_FA,
        avoid_float32=bool(without_float32(target.name for target in destination["targets"])),
    )
    # A composite model nests the config of its text part.
    text_config = getattr(model.config, "get_text_config", lambda: model.config)()
    chosen = choose_recipe(recipe, model.config.model_type, list(model.linears()))
    resolved = resolve_settings(chosen.settings, options.settings, f"recipe {chosen.name}")
    job = make_job(
        model,
        resolved if fa or not resolved.values.fa else _without_fa(resolved),
        read_samples(
            Path(options.calib or DEFAULT_CALIBRATION),
            folder,
            count=options.samples,
            max_length=options.max_length,
            longest=getattr(text_config, "max_position_embeddings", None),
            vocab_size=getattr(text_config, "vocab_size", None),
            trust_remote_code=options.trust_remote_code,
            estimate=not model.has_weights,
        ),
        recipe=chosen.name,
        folder=folder,
        output=default_output(folder, options.output),
        # An export holds no patched file, so its auto_map must not name one.
        config=patching.unpatched_config(folder),
        **destination,
    )
    require_loadable(job)
    return job


def _without_fa(resolved: ResolvedSettings) -> ResolvedSettings:
    """Return the settings of a run none of whose targets stores scales of q, k or v."""
    return ResolvedSettings(replace(resolved.values, fa=False), {**resolved.origins, "fa": "target"})
