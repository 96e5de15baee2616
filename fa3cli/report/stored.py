"""Opens the files of an export: its documents and the headers of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.exports.contents import Contents, read_shard, require_readable
from fa3cli.exports.json_documents import Document, is_file, read_document
from fa3cli.exports.layout import DESCRIPTION_FILE, LINEAR_VALUES, REPORT_FILE
from fa3cli.exports.targets import TARGETS
from fa3cli.files.reading import LARGE
from fa3cli.quantization.float_only import routers

__all__ = ["Matrices", "Stored", "open_stored", "read_matrices"]

_DESCRIPTIONS = dict.fromkeys(
    name for target in TARGETS.values() for value in LINEAR_VALUES for name in target.storing(value).description_files
)


@dataclass(frozen=True)
class Stored:
    """An export of any target: its tensors and documents, and the report of its run."""

    contents: Contents
    report: Document
    files: int
    size: int
    """Bytes of all files."""


@dataclass(frozen=True)
class Matrices:
    """Names of the modules with a two-dimensional weight, grouped by how it is stored."""

    quantized: dict[str, str | None]
    """The description's value for each quantized matrix; None if it has none."""
    left_float: tuple[str, ...]
    routers: frozenset[str]
    """Those of `left_float` that choose the experts of a token."""


def open_stored(folder: Path) -> Stored:
    """Open an export; files may be missing.

    Raises InvalidInputError if there is no report, no description and no readable weight file of a quantized model.
    """
    require_readable(folder)
    described = (read_document(folder, name, LARGE) for name in _DESCRIPTIONS)
    descriptions = tuple(document for document in described if document.raw is not None)
    shards = tuple(read_shard(folder, path.name) for path in sorted(folder.glob("*.safetensors")))
    # Its description comes from files only, never from names and dtypes of tensors.
    target = TARGETS["modelslim"].stored_in(folder)
    contents = Contents(
        folder,
        target,
        read_document(folder, "config.json"),
        read_document(folder, target.index_file, LARGE),
        descriptions,
        shards,
    )
    report = read_document(folder, REPORT_FILE, LARGE)
    if report.raw is None and not descriptions and not read_matrices(contents).quantized:
        raise _no_export(folder, contents)
    sizes = [path.stat().st_size for path in folder.iterdir() if is_file(path)]
    return Stored(contents, report, len(sizes), sum(sizes))


def read_matrices(contents: Contents) -> Matrices:
    """Return the quantized and the float matrices, by the description or, for names it lacks, by the dtype."""
    quantized: dict[str, str | None] = {}
    left_float = []
    # A description has the order of the modules; the tensors of a file are sorted by name.
    for name in dict.fromkeys([*contents.description, *contents.tensors]):
        module, _, leaf = name.rpartition(".")
        header = contents.tensors.get(name)
        if leaf != "weight" or module.endswith(".module") or (header and len(header.shape) != 2):
            continue
        value = contents.description.get(name)
        if value in LINEAR_VALUES or (value is None and header and header.dtype == "int8"):
            quantized[module] = value
        elif header:
            left_float.append(module)
    found = routers([name.removesuffix(".weight") for name in contents.tensors])
    return Matrices(quantized, tuple(left_float), frozenset(found) & frozenset(left_float))


def _no_export(folder: Path, contents: Contents) -> InvalidInputError:
    broken = next((shard for shard in contents.shards if shard.problem), None)
    found = (
        f"{broken.file} {broken.problem}"
        if broken
        else "weights that are not quantized"
        if contents.tensors
        else "no weights"
    )
    exports = sorted(path.parent.name for path in folder.glob(f"*/{REPORT_FILE}"))
    return InvalidInputError(
        f"{folder}: holds no export ({found}); expected {REPORT_FILE} or {DESCRIPTION_FILE} beside the weights",
        hint=f"give one of the exports in it: {', '.join(exports)}"
        if exports
        else "give the folder that fa3 quantize wrote",
    )
