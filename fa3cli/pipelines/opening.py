"""Opens a pipeline's folder: checks patch state, configs, shard headers and classes, and reads no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fa3cli import patching
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.files.tensors import DTYPES
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.devices import device_of, run_dtype
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.models.untrusted.checked_folder import checked_file, require_regular_files
from fa3cli.models.untrusted.trust import require_known_code
from fa3cli.patching.diffusion.index import INDEX, components
from fa3cli.patching.folders.config_json import Config, read_config
from fa3cli.patching.folders.inspection import Disk, look, original_index
from fa3cli.patching.formats import Pipeline
from fa3cli.pipelines.loading import from_folder
from fa3cli.pipelines.pipeline_classes import pipeline_class_of, require_trust, transformer_classes
from fa3cli.pipelines.skeleton import block_names, build_transformer

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["OpenedPipeline", "load_pipeline", "open_pipeline"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
_PICKLED = {".bin", ".ckpt", ".pt", ".pth"}


@dataclass(frozen=True)
class OpenedPipeline:
    """A pipeline whose transformers have no weights and whose other parts are not loaded.

    `transformers` and `configs` (the content of their config.json) are by component, in the order of model_index.json;
    `index` is the text of that file before the patch.
    """

    folder: Path
    pipeline_class: type[DiffusionPipeline]
    transformers: Mapping[str, StreamedModel]
    configs: Mapping[str, dict[str, Any]]
    index: str
    dtype: torch.dtype
    device: torch.device
    trusted: bool

    @property
    def parts(self) -> list[str]:
        """Names of the components, which are the names of their folders."""
        return [component.name for component in components(_index_of(look(Pipeline(), self.folder), self.folder))]

    @property
    def pipeline_class_name(self) -> str:
        """Name of the pipeline's class."""
        return self.pipeline_class.__name__


def open_pipeline(
    folder: Path,
    *,
    fa: bool,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    without_fa: str = "",
) -> OpenedPipeline:
    """Build the transformers of a pipeline's folder without reading weights; with `fa` it must be a patched one.

    `without_fa` says in hints how to do without a patch. Code of the folder runs only if patching the installed diffusers
    produces it again, or if it is trusted.
    """
    if not (folder / INDEX).is_file():
        raise _no_index(folder)
    for part in (folder, *filter(Path.is_dir, folder.iterdir())):
        require_regular_files(part)
    status = patching.status(folder)
    require_known_code(folder, status, fa=fa, trusted=trust_remote_code, without_fa=without_fa)
    disk = look(Pipeline(), folder)
    index = _index_of(disk, folder)
    receipt = disk.receipt if fa else None
    classes = transformer_classes(folder, index, receipt, status.code, trusted=trust_remote_code)
    if not trust_remote_code:
        require_trust(folder, index, besides=classes)
    pipeline_class = pipeline_class_of(folder, index)
    _require_parts(folder, index)
    configs = {name: _config(folder / name / "config.json") for name in classes}
    checkpoints = {name: Checkpoint(folder / name, WEIGHTS) for name in classes}
    place = device_of(device)
    # One dtype for the whole pipeline: its parts pass tensors to each other.
    common = run_dtype(dtype, _stored_dtype(checkpoints), place, folder / next(iter(classes)))
    transformers = {}
    for name, transformer_class in classes.items():
        skeleton = build_transformer(transformer_class, configs[name], common, len(checkpoints[name].tensors))
        blocks = {block: skeleton.get_submodule(block) for block in block_names(skeleton)}
        transformers[name] = StreamedModel(skeleton, checkpoints[name], common, place, blocks)
        if fa and not transformers[name].attentions():
            raise UnsupportedError(
                f"{folder / name}: holds a patched file, but the transformer that was built does not use it",
                hint="quantize only its linears with --no-fa",
            )
    return OpenedPipeline(folder, pipeline_class, transformers, configs, index.text, common, place, trust_remote_code)


def load_pipeline(opened: OpenedPipeline, transformers: Mapping[str, nn.Module]) -> Any:
    """Load the pipeline from its folder, with the given transformers by component.

    Raises InvalidInputError if diffusers cannot load it.
    """
    pipeline = from_folder(
        opened.pipeline_class, opened.folder, opened.index, transformers, dtype=opened.dtype, trusted=opened.trusted
    )
    for name, part in pipeline.components.items():
        # The transformers' weights are loaded block by block, while they run.
        if isinstance(part, nn.Module) and name not in transformers:
            part.to(opened.device)
    # Pipelines use the device of their parts, but the transformers' weights may be on the meta device.
    placed = {"device": opened.device, "_execution_device": opened.device}
    # Both names are properties of the class, so only a subclass can replace them.
    pipeline.__class__ = type(opened.pipeline_class_name, (type(pipeline),), placed)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _index_of(disk: Disk, folder: Path) -> Config:
    """Return model_index.json as it was before the patch."""
    index = original_index(disk)
    if index is None:
        raise _no_index(folder)
    return index


def _no_index(folder: Path) -> InvalidInputError:
    return InvalidInputError(f"{folder}: no {INDEX}", hint="give the folder of a pipeline of diffusers")


def _config(file: Path) -> dict[str, Any]:
    """Return the content of a transformer's config.json; a file that exists is checked first."""
    return read_config(file, checked_file(file).decode() if file.is_file() else None).data


def _require_parts(folder: Path, index: Config) -> None:
    """Raise InvalidInputError if a named part has no folder, or has weights but none in safetensors."""
    for name in [component.name for component in components(index) if not component.name.startswith("_")]:
        if not (folder / name).is_dir():
            raise InvalidInputError(
                f"{folder / name}: no such folder, but {INDEX} names {name}", hint="fetch the folder again"
            )
        endings = {file.suffix for file in (folder / name).iterdir()}
        if endings & _PICKLED and ".safetensors" not in endings:
            raise InvalidInputError(
                f"{folder / name}: its weights are pickled",
                hint="pickled weights are never read: convert them to safetensors first",
            )


def _stored_dtype(checkpoints: Mapping[str, Checkpoint]) -> str:
    """Return the name of the dtype of most stored float values, since configs of diffusers have no dtype.

    Raises InvalidInputError if there are no float tensors.
    """
    values: Counter[str] = Counter()
    for checkpoint in checkpoints.values():
        for info in checkpoint.tensors.values():
            # All float dtypes of safetensors: F64 to F8, BF16.
            if info.dtype.startswith(("F", "BF")):
                values[info.dtype] += prod(info.shape)
    if not values:
        folders = ", ".join(str(checkpoint.folder) for checkpoint in checkpoints.values())
        raise InvalidInputError(f"{folders}: the weights hold no float tensors", hint="fetch the folder again")
    [(most, _)] = values.most_common(1)
    return DTYPES.get(most, most)
