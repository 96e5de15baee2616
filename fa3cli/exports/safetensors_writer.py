"""Writes safetensors files tensor by tensor, into one file or several shards, without keeping tensors in memory.

A tensor on the meta device leaves a gap of its size: a resumed run has written it before, or another rank writes it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from fa3cli.errors import ConflictError
from fa3cli.exports.checksums import bytes_of, checksum
from fa3cli.files.tensors import stored_dtype
from fa3cli.files.writing import sync

__all__ = ["SafetensorsWriter", "header_room"]

_ALIGNMENT = 8
_BLOCK = 1 << 24  # bytes read at a time


class SafetensorsWriter:
    """Appends tensors to shards of at most `part_bytes` or one tensor (None: a single file).

    With a `scratch` folder, which the caller removes, a run can complete the files of a killed run. For this, it adds
    the same tensors again: gaps keep the bytes of the killed run.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        part_bytes: int | None = None,
        *,
        scratch: Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.total_bytes = 0
        self.checksums: dict[str, str] = {}
        """The checksum of every tensor, after `close`."""
        self._path, self._part_bytes, self._scratch = path, part_bytes, scratch
        self._metadata = dict(metadata or {})
        self._header_room = header_room(names, self._metadata)
        self._shards = [self._new_shard(0)]
        self._weight_map: dict[str, int] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        if stored_dtype(tensor.dtype) is None:
            raise TypeError(f"{name}: {tensor.dtype} cannot be written to a file")
        shard = self._shards[-1]
        if self._part_bytes and shard.entries_bytes and shard.size + tensor.nbytes > self._part_bytes:
            shard.suspend()  # one shard is open at a time
            shard = self._new_shard(len(self._shards))
            self._shards.append(shard)
        shard.add(name, tensor)
        self.total_bytes += tensor.nbytes
        self._weight_map[name] = len(self._shards) - 1

    def sync(self) -> None:
        """Wait until all tensors added so far are on the disk."""
        self._shards[-1].sync()

    def suspend(self) -> None:
        """Close the files unfinished, for the rank that finishes them."""
        self._shards[-1].suspend()

    def require_filled(self) -> None:
        """Raise ConflictError if a gap lies beyond the end of its file: the tensor written there is lost."""
        for data in (data for shard in self._shards for data in shard.data):
            if data.begin < data.end and data.path.stat().st_size < data.end:
                raise ConflictError(
                    f"{data.path}: shorter than the tensors written to it",
                    hint="files of the run's folder were removed; --resume never starts over",
                )

    def close(self) -> list[Path]:
        """Finish the shards, write the index of several, and rename them to their final names; return the files."""
        self.sync()
        self.require_filled()
        for data in (data for shard in self._shards for data in shard.data):
            self.checksums.update(data.checksums())
        # All headers and the index come before the first final name: a file with that name is complete.
        for shard in self._shards:
            shard.finish(self._metadata)
        count, path = len(self._shards), self._path
        if count == 1:
            files = [path]
        else:
            files = [path.with_name(f"{path.stem}-{i:05d}-of-{count:05d}{path.suffix}") for i in range(1, count + 1)]
            index = {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": {name: files[shard].name for name, shard in sorted(self._weight_map.items())},
            }
            path.with_name(f"{path.name}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for shard, file in zip(self._shards, files):
            shard.path.rename(file)
            if self._scratch is None:
                shard.ragged.unlink()
        return files

    def _new_shard(self, number: int) -> _Shard:
        path = self._path
        part = path.with_name(f"{path.name}.part{number}")
        if self._scratch is not None:  # a run killed during `close` may have given the file its final name
            # The number of shards, which is part of the name, is unknown until `close`.
            finished = path.parent.glob(f"{path.stem}-{number + 1:05d}-of-*{path.suffix}")
            for file in [*finished, *([path] if number == 0 and path.is_file() else [])]:
                with suppress(FileNotFoundError):  # another rank renamed it first
                    file.rename(part)
        shard = _Shard(part, (self._scratch or path.parent) / f"{part.name}.ragged", self._header_room)
        # The file names must be on the disk before a journal entry says that the tensors are.
        if self._scratch is not None:
            sync(path.parent)
            sync(self._scratch)
        return shard


class _Shard:
    """One file: space for the header, then tensors in the order they are added; `finish` writes the header.

    Tensors whose size is not a multiple of 8 bytes wait in a second file: `finish` appends them, widest dtype first, so
    that every tensor is aligned to its element size.
    """

    def __init__(self, path: Path, ragged: Path, header_room: int) -> None:
        self.path, self.ragged = path, ragged
        self.entries_bytes = 0
        self._begin = 8 + header_room
        self.data = self._aligned, self._ragged = _TensorFile(path, self._begin), _TensorFile(ragged, 0)

    @property
    def size(self) -> int:
        return self._begin + self.entries_bytes

    def add(self, name: str, tensor: Tensor) -> None:
        self.entries_bytes += tensor.nbytes
        (self._ragged if tensor.nbytes % _ALIGNMENT else self._aligned).add(name, tensor)

    def sync(self) -> None:
        self._aligned.sync()
        self._ragged.sync()

    def suspend(self) -> None:
        self._aligned.suspend()
        self._ragged.suspend()

    def finish(self, metadata: dict[str, str]) -> None:
        self.suspend()
        header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        header |= {part.name: _entry(part.tensor, part.place - self._begin) for part in self._aligned.entries}
        with self.path.open("r+b") as file, self.ragged.open("rb") as ragged:
            file.seek(self._aligned.end)
            for part in sorted(self._ragged.entries, key=lambda part: -part.tensor.element_size()):
                header[part.name] = _entry(part.tensor, file.tell() - self._begin)
                ragged.seek(part.place)
                file.write(ragged.read(part.tensor.nbytes))
            file.truncate()  # a killed run may have written more
            file.seek(0)
            # The format: the header's length as 8 bytes, then json, which may end in spaces.
            file.write(struct.pack("<Q", self._begin - 8))
            file.write(json.dumps(header, separators=(",", ":")).encode().ljust(self._begin - 8))
            _to_disk(file)


class _Added(NamedTuple):
    """A tensor of a file: its dtype and shape, its offset, and its checksum, or None for a gap."""

    name: str
    tensor: Tensor
    place: int
    checksum: str | None


class _TensorFile:
    """A file of consecutive tensors and gaps, and the offset of every tensor."""

    def __init__(self, path: Path, begin: int) -> None:
        self.path, self.begin, self.end = path, begin, begin
        self.entries: list[_Added] = []
        # Not truncated: a resumed run keeps the tensors of the stopped run.
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o640), "r+b")

    def add(self, name: str, tensor: Tensor) -> None:
        found = None
        if not tensor.is_meta:
            data = bytes_of(tensor)
            found = checksum([data])
            self._file.seek(self.end)  # beyond the end after a gap: the system fills it with zeros
            self._file.write(data)
        # Only dtype and shape stay in memory; the values are in the file.
        self.entries.append(_Added(name, torch.empty_like(tensor, device="meta"), self.end, found))
        self.end += tensor.nbytes

    def checksums(self) -> dict[str, str]:
        """Return the checksum of every tensor; gaps, which hold tensors by now, are read."""
        with self.path.open("rb") as file:
            return {part.name: part.checksum or checksum(_blocks(file, part)) for part in self.entries}

    def sync(self) -> None:
        if not self._file.closed:
            _to_disk(self._file)

    def suspend(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()


def _blocks(file: BinaryIO, part: _Added) -> Iterator[bytes]:
    file.seek(part.place)
    left = part.tensor.nbytes
    while left:
        yield file.read(min(left, _BLOCK))
        left -= min(left, _BLOCK)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _entry(tensor: Tensor, begin: int) -> dict[str, object]:
    offsets = [begin, begin + tensor.nbytes]
    return {"dtype": stored_dtype(tensor.dtype), "shape": list(tensor.shape), "data_offsets": offsets}


def header_room(names: Sequence[str], metadata: Mapping[str, str]) -> int:
    """Return enough bytes for the header entries of `names`; spaces fill the rest."""
    # The longest dtype, and six numbers of up to 2**48: four dimensions and two offsets.
    entry = len('"":{"dtype":"BF16","shape":[,,,],"data_offsets":[,]},') + 6 * len(str(2**48))
    room = sum(len(json.dumps(name)) + entry for name in names) + len(json.dumps(dict(metadata))) + 64
    return -(-room // _ALIGNMENT) * _ALIGNMENT
