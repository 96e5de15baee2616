"""The weights of a model folder: safetensors shards, checked up front and read by tensor name."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fa3cli.errors import InvalidInputError

__all__ = ["Checkpoint", "TensorInfo"]

FLOAT_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorInfo:
    """What a shard's header says of a tensor."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Checkpoint:
    """Tensors of a weights folder by name. Opening reads headers only.

    `file` is the weights' name where they are one file; several have an index named after it. Raises
    InvalidInputError where there are none, a shard is missing or truncated, the index names a tensor its
    shard doesn't hold or a file outside the folder, or a dtype isn't one of `dtypes`.
    """

    def __init__(
        self, folder: Path, file: str = "model.safetensors", dtypes: Collection[str] = FLOAT_DTYPES
    ) -> None:
        self.folder = folder
        index = folder / f"{file}.index.json"
        if index.is_file():
            shards = _read_index(index)
        elif (folder / file).is_file():
            shards = {file: None}
        else:
            raise InvalidInputError(
                f"{folder}: no weights; expected {file} or {index.name}",
                hint="pickled weights (.bin) are never read: convert them to safetensors first",
            )
        self.tensors: dict[str, TensorInfo] = {}
        for shard, names in shards.items():
            held = _read_header(folder, shard, dtypes)
            lacking = sorted(set(names or ()) - held.keys())
            if lacking:
                raise InvalidInputError(
                    f"{index}: {lacking[0]} should be in {shard}, but is not ({len(lacking)} such tensors)",
                    hint="index and shards are from different downloads: fetch the folder again",
                )
            self.tensors.update({name: held[name] for name in (names or held)})

    @property
    def files(self) -> list[str]:
        """Names of the shards, in the order of their first tensor."""
        return list(dict.fromkeys(info.file for info in self.tensors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors that share memory with the mapped shards; dropping them releases the pages.

        Raises InvalidInputError where one holds NaN or an infinity.
        """
        by_file = defaultdict(list)
        for name in names:
            by_file[self.tensors[name].file].append(name)
        tensors = {}
        for file, wanted in by_file.items():
            with safe_open(self.folder / file, "pt") as shard:
                tensors.update({name: shard.get_tensor(name) for name in wanted})
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor):
                file = self.folder / self.tensors[name].file
                raise InvalidInputError(
                    f"{file}: {name} holds NaN or infinite values",
                    hint="fetch the file again, or mend the checkpoint",
                )
        return tensors


def _is_finite(tensor: Tensor) -> bool:
    # Both extremes of a tensor with a NaN are NaN; no temporary of the tensor's size is made.
    return all(bound.isfinite() for bound in (tensor.amin(), tensor.amax()))


def _read_index(index: Path) -> dict[str, list[str]]:
    """Return the tensor names of each shard an index lists."""
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        items = list(weight_map.items())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidInputError(f"{index}: not a safetensors index ({error!r})") from error
    shards = defaultdict(list)
    for name, file in items:
        if not isinstance(file, str) or Path(file).name != file:
            raise InvalidInputError(f"{index}: {name} points to {file!r}; expected a file of this folder")
        shards[file].append(name)
    return shards


def _read_header(folder: Path, file: str, dtypes: Collection[str]) -> dict[str, TensorInfo]:
    """Return what a shard holds, after checking that it is all there."""
    path = folder / file
    try:
        with safe_open(path, "pt"):  # checks the header and that the data is as long as it says
            pass
        with path.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: the shard is missing", hint="fetch the folder again") from error
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"{path}: not a whole safetensors file ({error})",
            hint="the download was cut short: fetch it again",
        ) from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in dtypes:
            raise InvalidInputError(
                f"{path}: {name} has dtype {entry['dtype']}; expected one of {', '.join(dtypes)}",
                hint="fa3 quantizes float checkpoints; this one looks quantized already",
            )
        begin, end = entry["data_offsets"]
        tensors[name] = TensorInfo(file, entry["dtype"], tuple(entry["shape"]), end - begin)
    return tensors
