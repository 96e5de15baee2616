"""Checks that the files of the export are present, complete and consistent."""

from __future__ import annotations

from collections.abc import Container, Iterator

from fa3cli.exports.checks.registry import ALL, ASCEND_LANGUAGE, LANGUAGE, Remark, check, error, error_for
from fa3cli.exports.contents import Contents, Shard
from fa3cli.files.reading import is_file_name


@check("description", "engines read from it how each tensor is stored")
def description(contents: Contents) -> Iterator[Remark]:
    if not contents.descriptions:
        name, *older = contents.target.description_files
        yield error(name, "is missing" + "".join(f", and so is {other}" for other in older))
    for document in contents.descriptions:
        if document.problem:
            yield error(document.file, document.problem)


@check(
    "description-copies",
    "the engine's version decides which of the two files it reads",
    targets=ASCEND_LANGUAGE,
    needs=("description",),
)
def description_copies(contents: Contents) -> Iterator[Remark]:
    if len({document.raw for document in contents.descriptions}) > 1:
        name, older = contents.target.description_files
        yield error(older, f"differs from {name}; both must hold the same text")


@check(
    "description-name",
    "vLLM-Ascend never read the older name, and MindIE stops reading it",
    targets=ASCEND_LANGUAGE,
    needs=("description",),
)
def description_name(contents: Contents) -> Iterator[Remark]:
    name, older = contents.target.description_files
    if all(document.file != name for document in contents.descriptions):
        yield error_for(("vllm-ascend",), contents, name, f"is missing; copy {older} to it")


@check("weights", "a truncated or missing weight file stops the server at start", targets=ALL)
def weights(contents: Contents) -> Iterator[Remark]:
    target, index_file = contents.target, contents.target.index_file
    if not contents.shards:
        shards = f", and so is every shard of {index_file}" if target.sharded else ""
        yield error(target.weight_file, f"is missing{shards}")
    for shard in contents.shards:
        if shard.problem:
            yield error(shard.file, shard.problem)
    existing = {shard.file for shard in contents.shards}
    for file in sorted(set(_weight_map(contents).values()) - existing):
        if is_file_name(file):  # other names are errors of the index
            yield error(file, f"is missing; {index_file} names it")


@check("tensor-once", "engines may load either copy of the tensor", targets=ALL, needs=("weights",))
def tensor_once(contents: Contents) -> Iterator[Remark]:
    for name, files in _stored_twice(contents).items():
        yield error(name, f"is stored in {files[0]}, and again in {', '.join(files[1:])}")


def _stored_twice(contents: Contents) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for shard in contents.shards:
        for name in shard.tensors:
            files.setdefault(name, []).append(shard.file)
    return {name: found for name, found in files.items() if len(found) > 1}


@check("index", "loaders open only the files that the index lists", targets=LANGUAGE, needs=("weights",))
def index(contents: Contents) -> Iterator[Remark]:
    file, weight_file = contents.target.index_file, contents.target.weight_file
    # A single file needs no index.
    if contents.index.raw is None and [shard.file for shard in contents.shards] == [weight_file]:
        return
    if contents.index.problem:
        yield error(file, contents.index.problem)
        return
    listed: dict[str, set[str]] = {}
    for name, shard_file in _weight_map(contents).items():
        listed.setdefault(shard_file, set()).add(name)
    if not listed:
        yield error(file, "has no weight_map from tensor names to file names")
    for shard_file in sorted(listed):
        if not is_file_name(shard_file):
            yield error(file, f"lists {shard_file!r}, expected the name of a file in this folder")
    stored_twice = _stored_twice(contents)
    for shard in contents.shards if listed else ():
        if shard.file in listed:
            yield from _compare(file, shard, listed[shard.file], stored_twice)
        else:
            yield error(shard.file, f"is not in {file}, so no loader opens it")


@check(
    "one-file",
    "MindIE-SD opens one file by its name and reads no index: it never sees tensors in other files",
    targets=("mindie-sd",),
)
def one_file(contents: Contents) -> Iterator[Remark]:
    weight_file = contents.target.weight_file
    if contents.index.raw is not None:
        yield error(contents.target.index_file, f"is an index; expected only {weight_file}")
    elif others := [shard.file for shard in contents.shards if shard.file != weight_file]:
        yield error(others[0], f"is one of several weight files; expected only {weight_file}")


def _compare(index_file: str, shard: Shard, listed: set[str], stored_twice: Container[str]) -> Iterator[Remark]:
    for name in sorted(listed - shard.tensors.keys()):
        yield error(name, f"is not in {shard.file}, where {index_file} lists it")
    for name in sorted(shard.tensors.keys() - listed):
        if name not in stored_twice:  # an index can name only one of two files
            yield error(name, f"is in {shard.file}, but {index_file} does not list it there")


@check(
    "format",
    "transformers refuses a weight file whose header does not name the format",
    targets=("vllm",),
    needs=("weights",),
)
def format_named(contents: Contents) -> Iterator[Remark]:
    for shard in contents.shards:
        if shard.metadata.get("format") != "pt":
            yield error(shard.file, f"has format {shard.metadata.get('format')!r} in its header, expected 'pt'")


def _weight_map(contents: Contents) -> dict[str, str]:
    """Return the index's entries, tensor -> file; none for a target that reads no index."""
    if not contents.target.sharded:
        return {}
    listed = (contents.index.data or {}).get("weight_map")
    return {name: str(file) for name, file in listed.items()} if isinstance(listed, dict) else {}
