"""Opens a weights folder as a model: the patch's state, config, shard headers and code, before any weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fa3cli import patching
from fa3cli.calibration.checkpoint import Checkpoint
from fa3cli.calibration.config_weights import ConfigWeights, has_weights
from fa3cli.calibration.devices import computes_bfloat16, device_of
from fa3cli.calibration.loaded_code import check_loaded_code
from fa3cli.calibration.streamed_model import StreamedModel, build_skeleton, read_config
from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError

__all__ = ["open_model"]

_ATTENTION = ("auto", "eager", "sdpa")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_model(
    folder: Path,
    *,
    fa: bool,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    trust_remote_code: bool = False,
    only_plan: bool = False,
) -> StreamedModel:
    """Build the model of a weights folder without reading weights; with `fa` it must be a patched one.

    For a plan there need be no weights files.
    """
    if attn_implementation not in _ATTENTION:
        raise UnsupportedError(
            f"--attn-implementation {attn_implementation}: expected one of {', '.join(_ATTENTION)}"
        )
    if patching.is_pipeline(folder):
        raise UnsupportedError(
            f"{folder}: a pipeline of diffusers, whose transformers fa3 patches, but can't quantize yet",
            hint="quantize a causal language model",
        )
    status = patching.status(folder)
    run_folder_code = _may_run_folder_code(folder, status, fa=fa, trusted=trust_remote_code)
    checkpoint = None if only_plan and not has_weights(folder) else Checkpoint(folder)
    config = read_config(folder, run_folder_code=run_folder_code)
    place = device_of(device)
    model_dtype = _model_dtype(folder, config, dtype, place)
    config_dtype = (
        None if checkpoint else _model_dtype(folder, config, "auto", place)
    )  # building changes config's
    implementation = None if attn_implementation == "auto" else attn_implementation
    skeleton = build_skeleton(config, model_dtype, implementation, run_folder_code=run_folder_code)
    weights = checkpoint or ConfigWeights(folder, skeleton, config_dtype)
    model = StreamedModel(skeleton, weights, model_dtype, place)
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


def _model_dtype(folder: Path, config: Any, dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype to compute and export in; by itself never one that the device lacks."""
    if dtype not in ("auto", *_DTYPES):
        raise UnsupportedError(f"--dtype {dtype}: expected auto, {', '.join(_DTYPES)}")
    if dtype == "auto":
        found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
        dtype = str(found or "float32").removeprefix("torch.")
        if dtype == "bfloat16" and not computes_bfloat16(device):
            dtype = "float16"
    if dtype not in _DTYPES:
        raise InvalidInputError(
            f"{folder / 'config.json'}: dtype {dtype}; expected one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[dtype]
