"""Checks the file with the rotation of QuaRot, which the description names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fa3cli.exports.checks.registry import Remark, check, error
from fa3cli.exports.compressed_tensors import quoted
from fa3cli.exports.contents import Contents, read_shard
from fa3cli.exports.json_documents import is_file

_ENTRY = "optional"


@check(
    "rotation",
    "vLLM-Ascend rotates the states of a draft model by the tensor in the file that the description names",
    targets=("modelslim", "vllm-ascend"),
    needs=("description",),
)
def rotation(contents: Contents) -> Iterator[Remark]:
    place: Any = contents.settings
    # vLLM-Ascend reads optional.quarot.rotation_map.global_rotation; without one of these keys there is no rotation.
    for key in (_ENTRY, "quarot", "rotation_map"):
        if key not in place:
            return
        place = place[key]
        if not isinstance(place, dict):
            yield error(_ENTRY, f"{key} is {quoted(place)}, expected an object")
            return
    for name, file in place.items():
        if problem := _problem(contents, name, file):
            yield error(_ENTRY, f"quarot.rotation_map.{name} is {quoted(file)}{problem}")


def _problem(contents: Contents, name: str, file: Any) -> str | None:
    """Tell what is wrong with a named file. A file outside the export is never opened."""
    if not isinstance(file, str) or not file:
        return ", expected the path of a file in the export"
    if not _is_inside(contents.folder, file):
        return ", which is outside the export; expected the path of a file in it"
    if not is_file(contents.folder / file):
        return ", but there is no such file; copy it here"
    shard = read_shard(contents.folder, file)
    if shard.problem:
        return f", which {shard.problem}"
    if (header := shard.tensors.get(name)) is None:
        return f", which holds no tensor {name}"
    hidden = contents.geometry.hidden
    if hidden and header.shape != (hidden, hidden):
        return f", which holds {name} of shape {list(header.shape)}, expected [{hidden}, {hidden}]"
    return None


def _is_inside(folder: Path, file: str) -> bool:
    """Tell whether a path stays in the folder, also through links to folders; the file itself may be a link."""
    parts = PurePosixPath(file)
    if parts.is_absolute() or ".." in parts.parts or "\0" in file:
        return False
    try:
        return (folder / parts.parent).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return False
