"""Opens the safetensors shards of a weights folder, checks their headers, and reads tensors by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from fa3cli.errors import InvalidInputError
from fa3cli.files import tensors as tensor_files
from fa3cli.files.documents import parse_json, typed
from fa3cli.files.reading import LARGE, is_file_name, read_bytes, require_regular
from fa3cli.models.devices import RUN_DTYPES

__all__ = ["Checkpoint", "TensorInfo", "is_finite", "no_weights", "not_finite", "read_header"]

_FILE = "model.safetensors"
# The start of a git-lfs pointer, a small text file that is in the place of weights that were not fetched.
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's entry in its shard's header."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    begin: int = 0
    """Offset of the tensor's values in the file, in bytes."""


@dataclass(frozen=True)
class _Index:
    """The part of an index that is read: the file of each tensor."""

    weight_map: dict[str, Any]


class Checkpoint:
    """Tensors of a weights folder by name. Opening reads headers only.

    `file` is the name of a single weights file; several files have an index with that name. Raises InvalidInputError if
    there are no weights, or a shard is missing or truncated. The same error is raised if the index names a file outside
    the folder, or a tensor that its shard does not hold.
    """

    def __init__(self, folder: Path, file: str = _FILE) -> None:
        self.folder = folder
        # Each tensor is checked once, though layers may be loaded in two passes.
        self._finite: set[str] = set()
        index = folder / f"{file}.index.json"
        shards = _read_index(index) if index.exists() else {}
        if (folder / file).exists() and file not in shards:
            shards = {file: []}  # like transformers, prefer the single file to an index of other files
        if not shards:
            raise no_weights(folder, file)
        self.tensors: dict[str, TensorInfo] = {}
        for shard, names in shards.items():
            held = read_header(folder, shard)
            missing = sorted(set(names) - held.keys())
            if missing:
                raise InvalidInputError(
                    f"{index}: {missing[0]} should be in {shard}, but is not ({len(missing)} such tensors)",
                    hint="index and shards are from different downloads: fetch the folder again",
                )
            # A single file has no index: an empty list of names stands for all of its tensors.
            self.tensors.update({name: held[name] for name in (names or held)})

    @property
    def files(self) -> list[str]:
        """Names of the shards, in the order of their first tensor."""
        return list(dict.fromkeys(info.file for info in self.tensors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def float_dtype(self) -> str | None:
        """The name of the dtype in which most bytes are stored, of those in which models compute."""
        sizes: dict[str, int] = defaultdict(int)
        for info in self.tensors.values():
            if (dtype := tensor_files.DTYPES.get(info.dtype, "")) in RUN_DTYPES:
                sizes[dtype] += info.nbytes
        return max(sizes, key=sizes.__getitem__, default=None)

    def path(self, name: str) -> Path:
        """Return the shard that holds a tensor."""
        return self.folder / self.tensors[name].file

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors that share memory with the mapped shards; dropping them releases the pages.

        Raises InvalidInputError if a tensor holds NaN or an infinity.
        """
        tensors = self.read_unchecked(names)
        for name in tensors.keys() - self._finite:
            try:
                finite = is_finite(tensors[name])
            except NotImplementedError as error:  # float8 and smaller
                raise InvalidInputError(
                    f"{self.path(name)}: {name} is {tensors[name].dtype}, a dtype in which no model computes",
                    hint="fa3 does not read quantized checkpoints: fetch the model in bfloat16 or float16",
                ) from error
            if not finite:
                raise not_finite(self.path(name), name)
        self._finite.update(tensors)
        return tensors

    def read_unchecked(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors as `read` does, also of dtypes whose values cannot be checked."""
        by_file = defaultdict(list)
        for name in names:
            by_file[self.tensors[name].file].append(name)
        tensors = {}
        for file, wanted in by_file.items():
            try:
                with tensor_files.open_tensors(self.folder / file) as shard:
                    tensors.update({name: shard.get_tensor(name) for name in wanted})
            except (SafetensorError, OSError) as error:
                raise InvalidInputError(f"{self.folder / file}: cannot be read ({error})") from error
        return tensors

    def read_ahead(self, names: Iterable[str]) -> None:
        """Start reading tensors into the system's page cache in the background, where the system supports it."""
        if hasattr(os, "posix_fadvise"):
            # A daemon: the end of the process does not wait for hints.
            Thread(target=self._read_ahead, args=(list(names),), daemon=True).start()

    def _read_ahead(self, names: list[str]) -> None:
        for name in names:
            info = self.tensors[name]
            # Only a hint to the system: the later read reports the error.
            with suppress(OSError), (self.folder / info.file).open("rb") as shard:
                os.posix_fadvise(shard.fileno(), info.begin, info.nbytes, os.POSIX_FADV_WILLNEED)


def no_weights(folder: Path, file: str = _FILE) -> InvalidInputError:
    """Return the error for a folder without weights."""
    return InvalidInputError(
        f"{folder}: no weights; expected {file} or {file}.index.json",
        hint="pickled weights (.bin) are never read: convert them to safetensors first",
    )


def not_finite(file: Path, name: str) -> InvalidInputError:
    """Return the error for a tensor that holds NaN or an infinity."""
    return InvalidInputError(
        f"{file}: {name} holds NaN or infinite values", hint="fetch the file again, or repair the checkpoint"
    )


def is_finite(tensor: Tensor) -> bool:
    """Tell whether all values are finite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # aminmax returns NaN for a tensor that holds one, and needs no temporary of the tensor's size.
    return all(bound.isfinite() for bound in tensor.aminmax())


def _read_index(index: Path) -> dict[str, list[str]]:
    """Return the tensor names of each shard that an index lists."""
    try:
        # unique: a tensor that is listed twice would be read from one of two files, which one depends on the reader.
        listed = typed(parse_json(read_bytes(index, LARGE).decode("utf-8"), unique=True), _Index)
    except OSError as error:
        raise InvalidInputError(f"{index}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInputError(f"{index}: not a safetensors index ({error})") from error
    shards = defaultdict(list)
    for name, file in listed.weight_map.items():
        if not is_file_name(file):
            raise InvalidInputError(f"{index}: {name} points to {file!r}; expected a file of this folder")
        shards[file].append(name)
    return shards


def _is_lfs_pointer(path: Path) -> bool:
    try:
        require_regular(path)
        with path.open("rb") as stream:
            return stream.read(len(_LFS)) == _LFS
    except OSError:
        return False


def read_header(folder: Path, file: str) -> dict[str, TensorInfo]:
    """Return the tensors of a shard by name, after checking that the file is complete."""
    path = folder / file
    try:
        entries, _ = tensor_files.read_header(path)
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: the shard is missing", hint="fetch the folder again") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        if _is_lfs_pointer(path):
            raise InvalidInputError(f"{path}: a git-lfs pointer, not the file", hint="git lfs pull") from error
        raise InvalidInputError(
            f"{path}: not a complete safetensors file ({error})", hint="incomplete download: fetch the file again"
        ) from error
    return {
        name: TensorInfo(file, entry.dtype, entry.shape, entry.end - entry.begin, entry.begin)
        for name, entry in entries.items()
    }
