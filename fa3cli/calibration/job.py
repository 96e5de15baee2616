"""Everything a run needs, read and checked before any work: config, patched code, headers, settings, samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fa3cli import patching
from fa3cli.calibration.dataset import DEFAULT_CALIBRATION, Sample, read_samples
from fa3cli.calibration.layered_model import LayeredModel
from fa3cli.calibration.opening import open_model
from fa3cli.calibration.smoothing import require_groups
from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.quantization.fallback import matching, whole_groups
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import QuantSettings, ResolvedSettings, resolve_settings

__all__ = ["Job", "make_job", "prepare"]

_SAVE_TYPES = ("safe_tensor", "numpy")


@dataclass(frozen=True)
class Job:
    """One run: what is quantized, how, from which samples, and where the result goes."""

    model: LayeredModel
    settings: QuantSettings
    origins: Mapping[str, str]
    """Where each setting's value came from."""
    samples: Sequence[Sample]
    quantized: frozenset[str]
    """Names of the linears that become W8A8, before disable_level."""
    attentions: frozenset[str]
    """Names of the attention modules that get FA3 parameters, before fa_amp."""
    smoothing: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """AntiOutlier's scales by layer, where they are known already."""
    recipe: str = "none"
    folder: Path | None = None
    output: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """config.json as it was before the patch."""
    save_types: tuple[str, ...] = ("safe_tensor",)
    part_bytes: int | None = None

    @property
    def quantized_head(self) -> list[str]:
        """The linear behind the decoder layers, in a list, where it is quantized."""
        return [self.model.head] if self.model.head in self.quantized else []


def make_job(model: LayeredModel, resolved: ResolvedSettings, samples: Sequence[Sample], **where: Any) -> Job:
    """Decide which modules are quantized; raises InvalidInputError for a disable name that matches none."""
    settings = resolved.values
    linears = list(model.linears())
    attentions = [name for layer in model.layers for name in model.attentions(layer)]
    disabled = matching([*linears, *attentions], settings.disable_names)
    if settings.disable_last_linear:
        disabled.add(linears[-1])
    elif model.head in model.tied_modules:
        raise UnsupportedError(
            f"disable_last_linear=False: {model.head} shares its weight with the embedding, which stays float",
            hint='store it on its own ("tie_word_embeddings": false), or leave the last linear float',
        )
    if settings.anti_method != "none":
        require_groups(model, settings.anti_method)
    if not settings.reference:
        disabled |= whole_groups(disabled & set(linears), linears)
    parts = [*model.layers, *([model.head] if model.head else [])]
    return Job(
        model=model,
        settings=settings,
        origins=resolved.origins,
        samples=samples,
        quantized=frozenset(name for part in parts for name in model.linears(part)) - disabled,
        attentions=frozenset(attentions if settings.fa else ()) - disabled,
        **where,
    )


def prepare(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    calib: str | Path | None = None,
    samples: int | None = None,
    max_length: int | None = None,
    recipe: str | None = None,
    save_types: Sequence[str] = (),
    part_file_size: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    trust_remote_code: bool = False,
    only_plan: bool = False,
    **options: Any,
) -> Job:
    """Read and check everything; nothing is written and no weight is read. `options` are QuantSettings.

    With `only_plan` a folder will do that holds neither weights nor a tokenizer; such a job cannot be run.
    """
    folder = Path(os.path.abspath(folder))
    destination = where_to_save(save_types, part_file_size)
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
    # A composite model keeps what its text part goes by in a config of its own.
    text_config = getattr(model.config, "get_text_config", lambda: model.config)()
    chosen = choose_recipe(recipe, model.config.model_type, list(model.linears()))
    return make_job(
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
        output=Path(os.path.abspath(output or folder.with_name(f"{folder.name}-w8a8-fa3"))),
        config=patching.unpatched_config(folder),
        **destination,
    )


def where_to_save(save_types: Sequence[str], part_file_size: float | None) -> dict[str, Any]:
    """Return a job's save_types and part_bytes; raises UsageError for what cannot be."""
    if unknown := [name for name in save_types if name not in _SAVE_TYPES]:
        raise UsageError(f"save_type (--save-type) {unknown[0]!r}: expected {' or '.join(_SAVE_TYPES)}")
    if part_file_size is not None and not 0 < part_file_size < 1e6:
        raise UsageError(
            f"part_file_size (--part-file-size) {part_file_size}: expected gigabytes, more than 0"
        )
    return {
        "save_types": tuple(sorted(set(save_types))) or ("safe_tensor",),
        "part_bytes": None if part_file_size is None else int(part_file_size * 1e9),
    }
