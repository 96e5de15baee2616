"""A script's model, in memory or a folder, as a layered model; and what AntiOutlier did to it."""

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

__all__ = ["Smoothed", "config_of", "folder_of", "opened", "remember_smoothed", "smoothed", "talk"]

AnyModel: TypeAlias = "PreTrainedModel | str | Path"


@dataclass(frozen=True)
class Smoothed:
    """AntiOutlier's method and its scales by layer."""

    anti_method: str
    scales: Mapping[str, Mapping[str, Tensor]]


# A model in memory carries its smoothing in its weights, and what an export must know besides in this attribute.
_ATTRIBUTE = "fa3_smoothed"
# The weights of a folder stay as they are: its scales wait here for the Calibrator that is given the same folder.
_of_folders: dict[Path, Smoothed] = {}
_NONE = Smoothed("none", {})


def opened(
    model: AnyModel, dev_type: str, dev_id: int | None, *, fa: bool, reference: bool, trust_remote_code: bool
) -> LayeredModel:
    """Return a script's model ready for a run.

    Raises UsageError where it is no model, or on another device than is named, UnsupportedError where `fa` is asked for
    and its attention modules have no quantizers.
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
        raise UsageError(
            f"the model is a {type(model).__name__}; expected a causal LM of transformers, or the folder of one"
        )
    found = MemoryModel(model)
    if found.device.type != dev_type:
        raise UsageError(
            f"the model is on {found.device}, but dev_type is {dev_type!r}",
            hint="move the model, or name its device",
        )
    if fa and not found.attentions():
        raise UnsupportedError(
            f"{type(model).__name__}: none of its attention modules has a quantizer of fa3cli",
            hint="run fa3 patch on its folder and load it with trust_remote_code=True",
        )
    return found


def smoothed(model: AnyModel) -> Smoothed:
    """Return what AntiOutlier did to a model in this process."""
    if isinstance(model, nn.Module):
        found: Smoothed = getattr(model, _ATTRIBUTE, _NONE)
        return found
    return _of_folders.get(Path(model).resolve(), _NONE)


def remember_smoothed(model: AnyModel, found: Smoothed) -> None:
    """Keep what AntiOutlier did for the Calibrator."""
    if isinstance(model, nn.Module):
        setattr(model, _ATTRIBUTE, found)
    else:
        _of_folders[Path(model).resolve()] = found


def folder_of(model: AnyModel) -> Path | None:
    """Return the folder of a model's weights, None where it was made without one."""
    folder = Path((model.config.name_or_path or "") if isinstance(model, nn.Module) else model)
    return folder.absolute() if (folder / "config.json").is_file() and folder.name else None


def config_of(model: AnyModel) -> dict[str, Any]:
    """Return the config.json of a model as it was before the patch, or as a script has changed it since."""
    folder = folder_of(model)
    stored = None if folder is None else patching.unpatched_config(folder)
    if isinstance(model, nn.Module):
        current: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        if stored is None or any(current.get(key, size) != size for key, size in _sizes(stored).items()):
            return current
    return stored or {}


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    return {key: value for key, value in config.items() if type(value) is int}


def talk() -> None:
    """Let fa3's log be seen on stderr where a script has set up no logging."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s fa3 %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
