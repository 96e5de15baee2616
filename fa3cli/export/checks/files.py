"""Checks of the folder: which files are there, whole, and say the same."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from fa3cli.export.checks.registry import Remark, check, error, warning
from fa3cli.export.contents import Contents
from fa3cli.export.layout import DESCRIPTION_FILES, INDEX_FILE, WEIGHT_FILE

_FLOAT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@check("description", "engines read from it how each tensor is stored")
def description(contents: Contents) -> Iterator[Remark]:
    if not contents.descriptions:
        yield error(DESCRIPTION_FILES[0], f"is missing, and so is {DESCRIPTION_FILES[1]}")
    for document in contents.descriptions:
        if document.problem:
            yield error(document.file, document.problem)


@check(
    "description-copies",
    "which of the two names is read depends on the engine's version",
    needs=("description",),
)
def description_copies(contents: Contents) -> Iterator[Remark]:
    if len({document.raw for document in contents.descriptions}) > 1:
        yield error(
            DESCRIPTION_FILES[1], f"differs from {DESCRIPTION_FILES[0]}; the two must hold the same text"
        )


@check("weights", "a truncated or missing weight file stops the server at start")
def weights(contents: Contents) -> Iterator[Remark]:
    if not contents.shards:
        yield error(WEIGHT_FILE, f"is missing, and so is every shard of {INDEX_FILE}")
    for shard in contents.shards:
        if shard.problem:
            yield error(shard.file, shard.problem)
    there = {shard.file for shard in contents.shards}
    for file in sorted(set(_weight_map(contents).values()) - there):
        if _stays_inside(file):
            yield error(file, f"is missing; {INDEX_FILE} names it")


@check("index", "loaders open what the index lists, and nothing else", needs=("weights",))
def index(contents: Contents) -> Iterator[Remark]:
    if contents.index.raw is None and [shard.file for shard in contents.shards] == [WEIGHT_FILE]:
        return
    if contents.index.problem:
        yield error(INDEX_FILE, contents.index.problem)
        return
    listed: dict[str, set[str]] = {}
    for name, file in _weight_map(contents).items():
        listed.setdefault(file, set()).add(name)
    if not listed:
        yield error(INDEX_FILE, "has no weight_map from tensor names to file names")
    for file in sorted(listed):
        if not _stays_inside(file):
            yield error(INDEX_FILE, f"lists {file!r}; expected the name of a file in this folder")
    for shard in contents.shards if listed else ():
        if shard.file in listed:
            yield from _compare(shard.file, set(shard.tensors), listed[shard.file])
        else:
            yield error(shard.file, f"is not in {INDEX_FILE}, so no loader opens it")


def _compare(file: str, there: set[str], listed: set[str]) -> Iterator[Remark]:
    for name in sorted(listed - there):
        yield error(name, f"is not in {file}, where {INDEX_FILE} lists it")
    for name in sorted(there - listed):
        yield error(name, f"is in {file}, but {INDEX_FILE} does not list it there")


@check("tensor-once", "of a tensor stored twice the engine takes either", needs=("weights",))
def tensor_once(contents: Contents) -> Iterator[Remark]:
    first: dict[str, str] = {}
    for shard in contents.shards:
        for name in shard.tensors:
            if first.setdefault(name, shard.file) != shard.file:
                yield error(name, f"is stored in {first[name]} and again in {shard.file}")


@check("stale-files", "vLLM drops every weight file that model.safetensors.index.json does not list")
def stale_files(contents: Contents) -> Iterator[Remark]:
    ours = {shard.file for shard in contents.shards}
    for path in sorted(contents.folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in _FLOAT_FILES):
            yield error(path.name, "belongs to the float model; remove it from the export")
        elif path.suffix == ".safetensors" and path.name not in ours:
            yield warning(path.name, "is not part of the export, but vLLM reads every .safetensors file")


@check("tokenizer", "servers load the tokenizer from the same folder")
def tokenizer(contents: Contents) -> Iterator[Remark]:
    if not any((contents.folder / file).is_file() for file in _TOKENIZER_FILES):
        yield warning(_TOKENIZER_FILES[0], "is missing; copy the model's tokenizer files here")


def _weight_map(contents: Contents) -> dict[str, str]:
    listed = (contents.index.data or {}).get("weight_map")
    return {name: str(file) for name, file in listed.items()} if isinstance(listed, dict) else {}


def _stays_inside(file: str) -> bool:
    return Path(file).name == file
