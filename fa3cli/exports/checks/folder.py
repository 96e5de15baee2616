"""Checks the other files of the folder, also the one with a rotation, and the permissions of all files."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from fa3cli.exports.checks.registry import ALL, LANGUAGE, Remark, check, error, error_for, warning
from fa3cli.exports.compressed_tensors import quoted
from fa3cli.exports.contents import Contents, read_shard
from fa3cli.exports.json_documents import is_file

_FLOAT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_ASCEND_FILES = ("quant_model_weight*", "quant_model_description*")
_UNFINISHED = ("*.part", "*.ragged", "*.tmp", "*.journal")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")


@check("stale-files", "vLLM drops every weight file that model.safetensors.index.json does not list", targets=LANGUAGE)
def stale_files(contents: Contents) -> Iterator[Remark]:
    shard_files = {shard.file for shard in contents.shards}
    patterns = _FLOAT_FILES if contents.target.description_files else _ASCEND_FILES
    owner = "the float model" if contents.target.description_files else "an export for Ascend"
    for path in _entries(contents):
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            yield error(path.name, f"belongs to {owner}; move it out of the export")
        elif path.suffix == ".safetensors" and path.name not in shard_files:
            # MindIE opens every .safetensors file; vLLM the files in the index, or without one every file.
            readers = ("mindie", "vllm") if contents.index.raw is None else ("mindie",)
            message = "is not part of the export, but MindIE, and vLLM without an index, read every .safetensors"
            yield error_for(readers, contents, path.name, message)


@check("unfinished", "a file left by a stopped run or copy may be incomplete", targets=ALL)
def unfinished(contents: Contents) -> Iterator[Remark]:
    for path in _entries(contents):
        if any(fnmatch(path.name, pattern) for pattern in _UNFINISHED):
            yield warning(path.name, "was left by a stopped run or copy; complete it, or move it elsewhere")


@check("links", "a link without a target is a missing file for the server", targets=ALL)
def links(contents: Contents) -> Iterator[Remark]:
    # Download caches hold links; a copy of the export may lack their targets.
    for path in _entries(contents):
        if path.is_symlink() and not path.exists():
            yield warning(path.name, "is a link without a target; copy the file itself")


@check("tokenizer", "servers load the tokenizer from the same folder", targets=LANGUAGE)
def tokenizer(contents: Contents) -> Iterator[Remark]:
    if not any(fnmatch(path.name, name) for path in _entries(contents) for name in _TOKENIZER_FILES):
        yield warning(_TOKENIZER_FILES[0], "is missing; copy the model's tokenizer files here")


@check(
    "permissions",
    "a file that every user may change may differ from the export; an unreadable file stops the server",
    targets=ALL,
)
def permissions(contents: Contents) -> Iterator[Remark]:
    for path in [contents.folder, *_entries(contents)]:
        if not path.exists():
            continue
        mode = path.stat().st_mode
        name = "." if path == contents.folder else path.name
        # In a sticky folder such as /tmp users cannot remove or rename the files of others.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield warning(name, f"may be changed by every user (mode {stat.S_IMODE(mode):o}); chmod o-w")
        if not mode & stat.S_IRUSR:
            yield warning(name, f"may not be read by its owner (mode {stat.S_IMODE(mode):o}); chmod u+r")


@check(
    "rotation",
    "vLLM-Ascend rotates the states of a draft model by the tensor in the file that the description names",
    targets=("modelslim", "vllm-ascend"),
    needs=("description",),
)
def rotation(contents: Contents) -> Iterator[Remark]:
    place: Any = contents.settings
    # vLLM-Ascend reads optional.quarot.rotation_map.global_rotation; without one of these keys there is no rotation.
    for key in ("optional", "quarot", "rotation_map"):
        if key not in place:
            return
        place = place[key]
        if not isinstance(place, dict):
            yield error("optional", f"{key} is {quoted(place)}, expected an object")
            return
    for name, file in place.items():
        if problem := _problem(contents, name, file):
            yield error("optional", f"quarot.rotation_map.{name} is {quoted(file)}{problem}")


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


def _entries(contents: Contents) -> list[Path]:
    return sorted(contents.folder.iterdir())
