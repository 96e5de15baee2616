"""Writes safetensors tensor by tensor, into one file or several; only those of odd sizes are kept in memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["SafetensorsWriter"]

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
}
_ALIGNMENT = 8


class SafetensorsWriter:
    """Appends tensors to shards that close before they would pass `part_bytes` (None: a single file)."""

    def __init__(self, path: Path, names: list[str], part_bytes: int | None = None) -> None:
        self.total_bytes = 0
        self._path, self._part_bytes = path, part_bytes
        self._header_room = _header_room(names)
        self._shards = [self._new_shard(0)]
        self._weight_map: dict[str, int] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        shard = self._shards[-1]
        if self._part_bytes and shard.entries_bytes and shard.size + tensor.nbytes > self._part_bytes:
            shard.close()
            shard = self._new_shard(len(self._shards))
            self._shards.append(shard)
        shard.add(name, tensor)
        self.total_bytes += tensor.nbytes
        self._weight_map[name] = len(self._shards) - 1

    def close(self) -> list[Path]:
        """Finish the last shard, give all their names, write an index where there are several; return the files."""
        self._shards[-1].close()
        count, path = len(self._shards), self._path
        if count == 1:
            files = [path]
        else:
            files = [
                path.with_name(f"{path.stem}-{i:05d}-of-{count:05d}{path.suffix}")
                for i in range(1, count + 1)
            ]
            index = {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": {name: files[shard].name for name, shard in sorted(self._weight_map.items())},
            }
            path.with_name(f"{path.name}.index.json").write_text(
                json.dumps(index, indent=2) + "\n", encoding="utf-8"
            )
        for shard, file in zip(self._shards, files):
            shard.path.rename(file)
        return files

    def _new_shard(self, number: int) -> _Shard:
        return _Shard(self._path.with_name(f"{self._path.name}.part{number}"), self._header_room)


class _Shard:
    """One file: a reserved header, data as it comes, the header filled in at the end.

    Tensors whose size is no multiple of 8 bytes wait for the end, widest dtype first, so that all are aligned.
    """

    def __init__(self, path: Path, header_room: int) -> None:
        self.path = path
        self.entries_bytes = 0
        self._header_room = header_room
        self._header: dict[str, dict[str, object]] = {}
        self._ragged: dict[str, Tensor] = {}
        self._file = path.open("wb")
        self._file.seek(8 + header_room)

    @property
    def size(self) -> int:
        return 8 + self._header_room + self.entries_bytes

    def add(self, name: str, tensor: Tensor) -> None:
        self.entries_bytes += tensor.nbytes
        if tensor.nbytes % _ALIGNMENT:
            # A copy: the tensor's memory may be used again, or be pages of a mapped file.
            self._ragged[name] = tensor.detach().cpu().clone()
        else:
            self._write(name, tensor)

    def close(self) -> None:
        for name, tensor in sorted(self._ragged.items(), key=lambda item: -item[1].element_size()):
            self._write(name, tensor)
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._header_room))
        self._file.write(json.dumps(self._header, separators=(",", ":")).encode().ljust(self._header_room))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, name: str, tensor: Tensor) -> None:
        begin = self._file.tell() - 8 - self._header_room
        self._file.write(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        self._header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.nbytes],
        }


def _header_room(names: list[str]) -> int:
    """Return room for the header entries of `names`; what stays empty is filled with spaces, as the format allows."""
    entry = len('"":{"dtype":"BF16","shape":[,,,],"data_offsets":[,]},') + 6 * len(str(2**48))
    room = sum(len(json.dumps(name)) + entry for name in names) + 64
    return -(-room // _ALIGNMENT) * _ALIGNMENT
