"""Opens a weights folder as a model: checks patch state, config, shard headers and code, and reads no weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fa3cli import patching
from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.models import ATTENTION_IMPLEMENTATIONS
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.config_weights import ConfigWeights, has_weights
from fa3cli.models.devices import device_of, run_dtype
from fa3cli.models.published.conversions import match_checkpoint
from fa3cli.models.quantized_checkpoints import float_weights
from fa3cli.models.skeleton import build_skeleton, read_config
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.models.untrusted.checked_folder import require_regular_files
from fa3cli.models.untrusted.module_file import code_of, module_of
from fa3cli.models.untrusted.trust import require_known_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_loaded_code", "open_model"]


def open_model(
    folder: Path,
    *,
    fa: bool,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    trust_remote_code: bool = False,
    only_plan: bool = False,
    without_fa: str = "",
    avoid_float32: bool = False,
) -> StreamedModel:
    """Build the model of a weights folder without reading weights; with `fa` it must be a patched one.

    With `only_plan`, the folder may hold no weights. `without_fa` says in hints how to do without a patch.
    `avoid_float32`: see `run_dtype`.
    """
    if attn_implementation not in ATTENTION_IMPLEMENTATIONS:
        expected = ", ".join(ATTENTION_IMPLEMENTATIONS)
        raise UnsupportedError(f"--attn-implementation {attn_implementation}: expected one of {expected}")
    _require_language_model(folder)
    status = patching.status(folder)
    # Decided before the config is read: for a trusted folder, transformers runs the folder's code to read it.
    require_known_code(folder, status, fa=fa, trusted=trust_remote_code, without_fa=without_fa)
    module, known_class = (status.module, _known_class(status)) if fa else (None, None)
    # Read before transformers loads the file, to compare what it has loaded.
    seen = code_of(module) if module and known_class is None else None
    stored = None if only_plan and not has_weights(folder) else Checkpoint(folder)
    config = read_config(folder, trusted=trust_remote_code)
    checkpoint = float_weights(stored, config) if stored else None
    place = device_of(device)
    # Read before building, which changes the config's dtype.
    model_dtype = _model_dtype(folder, config, dtype, place, stored, avoid_float32=avoid_float32)
    # A folder without weights would store the dtype of its config.
    stored_dtype = model_dtype if stored else _model_dtype(folder, config, "auto", place, stored)
    skeleton = build_skeleton(
        config,
        model_dtype,
        None if attn_implementation == "auto" else attn_implementation,
        known_class=known_class,
        trusted=trust_remote_code,
        tensors=len(checkpoint.tensors) if checkpoint else None,
    )
    published = match_checkpoint(skeleton, checkpoint.tensors if checkpoint else None)
    weights = checkpoint or ConfigWeights(folder, skeleton, stored_dtype, published)
    model = StreamedModel(skeleton, weights, model_dtype, place, published=published)
    if fa and not model.attentions():
        raise UnsupportedError(
            f"{folder}: holds a patched modeling file, but the model that was built does not use it",
            hint="composite models build their text model elsewhere; quantize only its linears with --no-fa",
        )
    if module and seen is not None:
        check_loaded_code(skeleton, module, seen)
    return model


def check_loaded_code(model: nn.Module, module: Path, seen: bytes) -> None:
    """Raise ConflictError if a model's code differs from the bytes `seen` in `module`, the file in its folder.

    transformers 4.x copies a folder's code to a cache whose path contains only the folder's name; another process that
    loads a folder of the same name can replace the copy before it is imported.
    """
    loaded = Path(inspect.getfile(type(model)))
    if code_of(module) != seen:
        raise ConflictError(f"{module}: changed while it was loaded", hint="run again when no process writes it")
    if code_of(loaded) != seen:
        raise ConflictError(
            f"transformers loaded {loaded}, which is not {module}",
            hint="another process uses a folder of the same name: run again, or set HF_MODULES_CACHE to a separate "
            "folder for each of them",
        )


def _require_language_model(folder: Path) -> None:
    """Raise UnsupportedError for a folder of another kind, InvalidInputError for files that a library could not read."""
    if patching.is_pipeline(folder):
        raise UnsupportedError(
            f"{folder}: a pipeline of diffusers, expected the folder of a causal language model",
            hint="fa3 quantize supports pipelines, with --prompts",
        )
    # Checked before a library reads the folder: it would wait forever at a pipe.
    require_regular_files(folder)
    patching.require_float_model(folder)


def _known_class(status: patching.PatchStatus) -> type[PreTrainedModel] | None:
    """Return the patched class, made from the checked text; None if the patch is not reproducible.

    transformers loads the code of any other patch.
    """
    if not (status.module and status.class_name and status.code):
        return None
    [text] = status.code.values()
    found: type[PreTrainedModel] = getattr(module_of(status.module, text.encode()), status.class_name)
    return found


def _model_dtype(
    folder: Path,
    config: Any,
    dtype: str,
    device: torch.device,
    stored: Checkpoint | None,
    *,
    avoid_float32: bool = False,
) -> torch.dtype:
    """Return the dtype to compute and export in; for `auto` that in config.json, else that of most stored values."""
    # transformers 4.56 renamed torch_dtype to dtype.
    found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return run_dtype(
        dtype,
        str(found or (stored and stored.float_dtype) or "float32").removeprefix("torch."),
        device,
        folder / "config.json",
        avoid_float32=avoid_float32,
    )
