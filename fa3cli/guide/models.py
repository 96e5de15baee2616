"""Opens a script's model, in memory or in a folder, as a layered model, and records how AntiOutlier smoothed it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from fa3cli import logger, patching
from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.memory_model import MemoryModel
from fa3cli.models.opening import open_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "AppliedSmoothing",
    "config_of",
    "enable_logging",
    "folder_of",
    "open_layered_model",
    "record_smoothing",
    "smoothing_of",
]

AnyModel: TypeAlias = "PreTrainedModel | str | Path"


@dataclass(frozen=True)
class AppliedSmoothing:
    """AntiOutlier's method and its scales by layer."""

    anti_method: str
    scales: Mapping[str, Mapping[str, Tensor]]


# The weights of a model in memory are smoothed; this attribute holds the other facts that an export needs.
_ATTRIBUTE = "fa3_smoothed"
# The weights of a folder stay unchanged: the scales are kept here for a later Calibrator of the same folder.
_by_folder: dict[Path, AppliedSmoothing] = {}
_NONE = AppliedSmoothing("none", {})


def open_layered_model(
    model: AnyModel, dev_type: str, dev_id: int | None, *, fa: bool, reference: bool, trust_remote_code: bool
) -> LayeredModel:
    """Return a script's model ready for a run.

    Raises UsageError if it is not a model, or is on another device than `dev_type`; UnsupportedError if `fa` is set and
    no attention module has a quantizer.
    """
    if isinstance(model, (str, Path)):
        return open_model(
            Path(model).absolute(),
            fa=fa,
            device=dev_type if dev_id is None or dev_type == "cpu" else f"{dev_type}:{dev_id}",
            attn_implementation="eager" if reference else "auto",
            trust_remote_code=trust_remote_code,
        )
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UsageError(f"the model is a {type(model).__name__}; expected a causal LM of transformers, or its folder")
    layered = MemoryModel(model)
    if layered.device.type != dev_type:
        raise UsageError(
            f"the model is on {layered.device}, but dev_type is {dev_type!r}",
            hint="move the model, or set dev_type to its device",
        )
    if fa and not layered.attentions():
        raise UnsupportedError(
            f"{type(model).__name__}: none of its attention modules has a quantizer of fa3cli",
            hint="run fa3 patch on its folder and load it with trust_remote_code=True",
        )
    return layered


def smoothing_of(model: AnyModel) -> AppliedSmoothing:
    """Return how AntiOutlier smoothed a model in this process."""
    if isinstance(model, nn.Module):
        found: AppliedSmoothing = getattr(model, _ATTRIBUTE, _NONE)
        return found
    return _by_folder.get(Path(model).resolve(), _NONE)


def record_smoothing(model: AnyModel, smoothing: AppliedSmoothing) -> None:
    """Record for the Calibrator how AntiOutlier smoothed a model."""
    if isinstance(model, nn.Module):
        setattr(model, _ATTRIBUTE, smoothing)
    else:
        _by_folder[Path(model).resolve()] = smoothing


def folder_of(model: AnyModel) -> Path | None:
    """Return the folder of a model's weights; None if the model was made without a folder."""
    folder = Path((model.config.name_or_path or "") if isinstance(model, nn.Module) else model)
    return folder.absolute() if (folder / "config.json").is_file() and folder.name else None


def config_of(model: AnyModel) -> dict[str, Any]:
    """Return a model's config.json as it was before the patch; the model's own config if a script changed its sizes."""
    folder = folder_of(model)
    stored = None if folder is None else patching.unpatched_config(folder)
    if isinstance(model, nn.Module):
        current: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        if stored is None or any(current.get(key, size) != size for key, size in _sizes(stored).items()):
            return current
    return stored or {}


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    return {key: value for key, value in config.items() if type(value) is int}


def enable_logging() -> None:
    """Write fa3's log to stderr if the script has not set up logging."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s fa3 %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
