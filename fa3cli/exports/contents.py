"""Reads an export from the disk: its documents and tensor headers, with problems recorded instead of raised."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa3cli.errors import InvalidInputError
from fa3cli.exports.expected_tensors import ExpectedTensors
from fa3cli.exports.geometry import Geometry, read_geometry
from fa3cli.exports.json_documents import Document, is_file, read_document
from fa3cli.exports.layout import FLOAT, FP8, PARAMETERS_FILE, REPORT_FILE, W8A8, W8A8_DYNAMIC, AttentionForm
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.target import Target
from fa3cli.files.reading import LARGE, is_file_name
from fa3cli.files.tensors import DTYPES, Entry, open_tensors, read_header

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Contents", "Header", "Shard", "modules_around", "open_contents", "read_shard", "require_readable"]

_NUMPY_FILE = "quant_weight.npy"
# The end of an entry for a module instead of a tensor: how its activations are quantized.
_MODULE_ENTRY = ".quant_type"


@dataclass(frozen=True)
class Header:
    """The entry of one tensor in a safetensors header."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """An existing weight file; `problem` says why its header could not be read, or is None."""

    file: str
    tensors: dict[str, Header]
    metadata: Mapping[str, str]
    problem: str | None


@dataclass(frozen=True)
class Contents:
    """The parts of an export that checks read. Tensors are loaded one at a time, with `read`."""

    folder: Path
    target: Target
    config: Document
    index: Document
    descriptions: tuple[Document, ...]
    shards: tuple[Shard, ...]
    float_model: ExpectedTensors | None = None
    """What the float model needs; None if it is not known, and sizes are computed from config.json."""
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Results that one check has computed and a later check uses again."""
    _opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def tensors(self) -> dict[str, Header]:
        """Headers of all stored tensors; for a tensor stored twice, the header in the first file."""
        # Reversed, so that the header in the first file overwrites the others.
        return {name: header for shard in reversed(self.shards) for name, header in shard.tensors.items()}

    @cached_property
    def description(self) -> dict[str, Any]:
        """Tensor name -> value, without the entries for the whole model and for modules.

        For a target without a description, values are inferred from the tensors' names and dtypes.
        """
        if not self.target.description_files:
            return {name: self._inferred_value(name) for name in self.tensors}
        return {
            name: value
            for name, value in self._entries.items()
            if ("." in name and not name.endswith(_MODULE_ENTRY)) or name in self.tensors
        }

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The description's entries for the whole model, such as `model_quant_type`."""
        return {name: value for name, value in self._entries.items() if "." not in name and name not in self.tensors}

    @cached_property
    def module_entries(self) -> dict[str, Any]:
        """The description's entries for modules, module -> value."""
        rest = self._entries.keys() - self.description.keys() - self.settings.keys()
        return {name.removesuffix(_MODULE_ENTRY): self._entries[name] for name in sorted(rest)}

    @cached_property
    def form(self) -> AttentionForm:
        """The form of the attention modules: that of the description's entries, else that of the tensors."""
        forms = [form for form in self.target.forms if not form.latent or self.geometry.latent_heads]
        described = (form for form in forms if form.settings and form.settings.items() <= self.settings.items())
        stored = (form for form in forms if any(_belongs(name, form) for name in self.names))
        return next(chain(described, stored), forms[0])

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all tensors that are stored or described."""
        return frozenset(self.tensors) | frozenset(self.description)

    @property
    def config_data(self) -> dict[str, Any]:
        """The data of config.json; empty if the check `config` did not pass."""
        return self.config.data or {}

    @cached_property
    def geometry(self) -> Geometry:
        """Sizes and dtype of the model; valid only if the check `config` passed."""
        return read_geometry(self.config_data)

    @cached_property
    def checksums(self) -> dict[str, str]:
        """The checksums of the tensors as fa3 wrote them; empty if another tool wrote the export, or an older fa3."""
        found = (read_document(self.folder, REPORT_FILE, LARGE).data or {}).get("checksums")
        if not isinstance(found, dict):
            return {}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    @property
    def model_dtype(self) -> str:
        """The model's dtype in config.json; empty if the check `config` did not pass."""
        return self.geometry.dtype or ""

    def read(self, name: str) -> Tensor:
        """Load one tensor. Only one file stays mapped, so that memory is limited to one shard."""
        tensor: Tensor = self._open(name).get_tensor(name)
        return tensor

    def read_rows(self, name: str, rows: slice) -> Tensor:
        """Load a range of rows of a tensor."""
        part: Tensor = self._open(name).get_slice(name)[rows]
        return part

    def _open(self, name: str) -> Any:
        file = self.tensors[name].file
        if file not in self._opened:
            self._opened.clear()  # unmaps the previous file
            self._opened[file] = open_tensors(self.folder / file)
        return self._opened[file]

    def _inferred_value(self, name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if name.endswith(tuple(f".{tensor}" for tensor in self.target.attention_tensors)):
            return FP8
        # The first of linear_tensors is the weight, which float linears have too.
        quantized = leaf in self.target.linear_tensors[1:] or self.tensors[name].dtype == "int8"
        if not quantized:
            return FLOAT
        return W8A8 if f"{module}.input_scale" in self.tensors else W8A8_DYNAMIC

    @property
    def _entries(self) -> dict[str, Any]:
        return next((document.data for document in self.descriptions if document.data is not None), {})


def open_contents(folder: Path, target: Target = TARGETS["modelslim"]) -> Contents:
    """Read the documents and headers of an export in the form of `target`.

    Raises InvalidInputError if the folder is missing or holds no file of such an export; every other problem is
    recorded for the checks to report.
    """
    require_readable(folder)
    target = target.stored_in(folder)
    descriptions = tuple(
        read_document(folder, name, LARGE) for name in target.description_files if os.path.lexists(folder / name)
    )
    index = read_document(folder, target.index_file, LARGE)
    files = _weight_files(folder, target, index)
    # A description with .npy files only, and no safetensors, belongs to a numpy export.
    if not files and index.raw is None and (not descriptions or is_file(folder / _NUMPY_FILE)):
        raise _no_export(folder, target)
    return Contents(
        folder,
        target,
        read_document(folder, "config.json"),
        index,
        descriptions,
        tuple(read_shard(folder, f) for f in files),
    )


def require_readable(folder: Path) -> None:
    """Raise InvalidInputError if the folder is missing, its files cannot be listed, or it holds a calibration."""
    try:
        if not folder.is_dir():
            raise InvalidInputError(f"{folder}: no such folder", hint="give the folder that fa3 quantize wrote")
        next(folder.iterdir(), None)
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be read ({error.strerror})") from error
    if is_file(folder / PARAMETERS_FILE):
        raise InvalidInputError(
            f"{folder}: holds a calibration, not an export", hint="fa3 export makes exports from it"
        )


def _no_export(folder: Path, target: Target) -> InvalidInputError:
    if several := [name for name in TARGETS if (folder / name).is_dir()]:
        return InvalidInputError(
            f"{folder}: holds several exports, one for each of {', '.join(several)}",
            hint=f"verify one of them: fa3 verify {folder / several[0]}",
        )
    if parts := sorted(path.name for path in folder.iterdir() if _holds_transformer(path)):
        return InvalidInputError(
            f"{folder}: holds several exports, one for each of {', '.join(parts)}",
            hint=f"verify one of them: fa3 verify {folder / parts[0]}",
        )
    if is_file(folder / _NUMPY_FILE):
        return InvalidInputError(
            f"{folder}: holds only a numpy export, but fa3 verify checks safe_tensor exports",
            hint="export with --save-type safe_tensor as well",
        )
    weights = f"{target.weight_file} or {target.index_file}" if target.sharded else target.weight_file
    described = f", and {target.description_files[0]}" if target.description_files else ""
    return InvalidInputError(
        f"{folder}: holds no export for target {target.name}; expected {weights}{described}",
        hint="give the folder that fa3 quantize wrote, or choose its --target",
    )


def _holds_transformer(folder: Path) -> bool:
    """Tell whether a folder holds an export of a pipeline's transformer; every transformer has its own folder."""
    names = [
        name
        for target in TARGETS.values()
        if target.pipelines
        for name in (target.weight_file, target.index_file, *target.description_files)
    ]
    return any(is_file(folder / name) for name in names)


def _weight_files(folder: Path, target: Target, index: Document) -> list[str]:
    """Return the existing weight files, also those missing in the index, so that checks find stray shards."""
    weight_map = (index.data or {}).get("weight_map")
    named = [file for file in weight_map.values() if isinstance(file, str)] if isinstance(weight_map, dict) else []
    # A path outside the folder is never opened; the check of the index reports it.
    inside = {file for file in named if is_file_name(file) and is_file(folder / file)}
    stem = target.weight_file.removesuffix(".safetensors")
    # A single file, or shards.
    found = (path.name for pattern in ("", "-*") for path in folder.glob(f"{stem}{pattern}.safetensors"))
    return sorted(inside | set(found))


def read_shard(folder: Path, file: str) -> Shard:
    """Read the header of one weight file; an error becomes its `problem`."""
    try:
        entries, metadata = read_header(folder / file)
    except OSError as error:
        return Shard(file, {}, {}, f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        return Shard(file, {}, {}, f"cannot be read: {error}")
    return Shard(file, {name: _header(file, entries[name]) for name in sorted(entries)}, metadata, None)


def _header(file: str, entry: Entry) -> Header:
    return Header(file, DTYPES.get(entry.dtype, entry.dtype), entry.shape)


def _belongs(name: str, form: AttentionForm) -> bool:
    return name.endswith(tuple(f".{tensor}" for tensor in form.tensors))


def modules_around(name: str) -> Iterator[str]:
    """Yield a dotted name and the names of all modules that contain it, innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]
