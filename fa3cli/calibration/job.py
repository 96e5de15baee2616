"""Everything a run needs, read and checked before any work: config, patched code, headers, settings, samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fa3cli import patching
from fa3cli.calibration.checkpoint import Checkpoint
from fa3cli.calibration.dataset import DEFAULT_CALIBRATION, Sample, read_samples
from fa3cli.calibration.loaded_code import check_loaded_code
from fa3cli.calibration.streamed_model import StreamedModel, build_skeleton, read_config
from fa3cli.errors import (
    ConflictError,
    InvalidInputError,
    MissingCapabilityError,
    UnsupportedError,
    UsageError,
)
from fa3cli.quantization.recipes import choose_recipe
from fa3cli.quantization.settings import QuantSettings, matching, resolve_settings

__all__ = ["Job", "open_model", "prepare"]

_SAVE_TYPES = ("safe_tensor", "numpy")
_ATTENTION = ("auto", "eager", "sdpa")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """One run of quantize: what is quantized, how, from which samples, and where the result goes."""

    folder: Path
    output: Path
    model: StreamedModel
    settings: QuantSettings
    recipe: str
    samples: list[Sample]
    save_types: tuple[str, ...]
    part_bytes: int | None
    quantized: frozenset[str]
    """Names of the linears that become W8A8."""
    attentions: frozenset[str]
    """Names of the attention modules that get FA3 parameters, before fa_amp."""
    config: dict[str, Any]
    """config.json as it was before the patch."""


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
    **options: Any,
) -> Job:
    """Read and check everything; nothing is written and no weight is read. `options` are QuantSettings."""
    folder = Path(os.path.abspath(folder))
    save_types = tuple(sorted(set(save_types))) or ("safe_tensor",)
    if unknown := [name for name in save_types if name not in _SAVE_TYPES]:
        raise UsageError(f"--save-type {unknown[0]}: expected {' or '.join(_SAVE_TYPES)}")
    if part_file_size is not None and not 0 < part_file_size < 1e6:
        raise UsageError(f"--part-file-size {part_file_size}: expected gigabytes, more than 0")
    model = open_model(
        folder,
        fa=options.get("fa") is not False,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    linears = list(model.linears())
    attentions = [name for layer in model.layers for name in model.attentions(layer)]
    recipe_name, recipe_settings = choose_recipe(recipe, model.config.model_type, linears)
    settings = resolve_settings(recipe_settings, options)
    disabled = matching([*linears, *attentions], settings.disable_names)
    if settings.disable_last_linear:
        disabled.add(linears[-1])
    return Job(
        folder=folder,
        output=Path(os.path.abspath(output or folder.with_name(f"{folder.name}-w8a8-fa3"))),
        model=model,
        settings=settings,
        recipe=recipe_name,
        samples=read_samples(
            Path(calib or DEFAULT_CALIBRATION),
            folder,
            count=samples,
            max_length=max_length,
            longest=getattr(model.config, "max_position_embeddings", None),
            vocab_size=model.config.vocab_size,
            trust_remote_code=trust_remote_code,
        ),
        save_types=save_types,
        part_bytes=None if part_file_size is None else int(part_file_size * 1e9),
        quantized=frozenset(name for layer in model.layers for name in model.linears(layer)) - disabled,
        attentions=frozenset(attentions if settings.fa else ()) - disabled,
        config=patching.unpatched_config(folder),
    )


def open_model(
    folder: Path,
    *,
    fa: bool,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    trust_remote_code: bool = False,
) -> StreamedModel:
    """Build the model of a weights folder without reading weights; with `fa` it must be a patched one."""
    if attn_implementation not in _ATTENTION:
        raise UnsupportedError(
            f"--attn-implementation {attn_implementation}: expected one of {', '.join(_ATTENTION)}"
        )
    status = patching.status(folder)
    run_folder_code = _may_run_folder_code(folder, status, fa=fa, trusted=trust_remote_code)
    checkpoint = Checkpoint(folder)
    config = read_config(folder, run_folder_code=run_folder_code)
    model_dtype = _model_dtype(folder, config, dtype)
    implementation = None if attn_implementation == "auto" else attn_implementation
    skeleton = build_skeleton(config, model_dtype, implementation, run_folder_code=run_folder_code)
    model = StreamedModel(skeleton, checkpoint, model_dtype, _device(device))
    if fa and not model.attentions():
        raise UnsupportedError(
            f"{folder}: the patched modeling file is there, but the model that was built does not use it",
            hint="composite models build their text model elsewhere; quantize its linears alone with --no-fa",
        )
    if fa:
        check_loaded_code(skeleton, status.module)
    return model


def _may_run_folder_code(folder: Path, status: patching.PatchStatus, *, fa: bool, trusted: bool) -> bool:
    """Decide whether the folder's modeling file is run.

    Without being told to, only a file that patching the installed transformers gives again, byte for byte.
    """
    if fa and status.state == "unpatched":
        patching.attention_of(folder)  # raises where fa3 patch could not help
        raise InvalidInputError(
            f"{folder}: not patched, so q, k and v cannot be seen",
            hint=f"run fa3 patch {folder} (fa3 quantize --no-fa leaves q, k and v alone)",
        )
    if fa and status.module and not status.module.is_file():
        raise ConflictError(
            f"{status.module}: missing, though config.json names it", hint="run fa3 patch again"
        )
    if trusted or status.state == "unpatched" or status.reproducible:
        return trusted or fa
    if not fa:
        return False
    again = "run fa3 patch again (--force gives up changes made by hand), or "
    raise ConflictError(
        f"{status.module or folder}: {status.reason}",
        hint=again * (status.state in ("stale", "edited"))
        + "pass --trust-remote-code if you trust the code in the folder",
    )


def _model_dtype(folder: Path, config: Any, dtype: str) -> torch.dtype:
    if dtype not in ("auto", *_DTYPES):
        raise UnsupportedError(f"--dtype {dtype}: expected auto, {', '.join(_DTYPES)}")
    if dtype == "auto":
        found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
        dtype = str(found or "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise InvalidInputError(
            f"{folder / 'config.json'}: dtype {dtype}; expected one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[dtype]


def _device(device: str) -> torch.device:
    if device not in ("auto", "cpu"):
        raise MissingCapabilityError(
            f"--device {device}: this version of fa3 runs on the CPU only", hint="leave --device away"
        )
    return torch.device("cpu")
