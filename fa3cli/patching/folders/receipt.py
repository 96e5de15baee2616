"""Reads and writes `.fa3/patch.json`, the record of a patch, so that it can be undone and recognised as stale."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fa3cli.errors import ConflictError
from fa3cli.files.documents import read_json, typed
from fa3cli.files.reading import is_file_name, read_bytes
from fa3cli.options import File, entries
from fa3cli.patch_options import PatchOptions
from fa3cli.patching.edits import Edit

__all__ = [
    "RECEIPT",
    "UNREADABLE",
    "Change",
    "FileChange",
    "Options",
    "Receipt",
    "absolute",
    "digest_of",
    "read_receipt",
    "receipt_library",
    "sha256",
]

RECEIPT = Path(".fa3", "patch.json")
UNREADABLE = "unreadable"


def sha256(data: bytes) -> str:
    """Return the digest of a file in a receipt."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str | None:
    """Return the digest of a file; None if nothing is there, `UNREADABLE` if it is no file or cannot be read."""
    try:
        return sha256(read_bytes(path))
    except OSError:
        return UNREADABLE if os.path.lexists(path) else None


@dataclass(frozen=True)
class Change:
    """The change of one text: digests before and after, and the edits that lead from one to the other."""

    before: str
    after: str
    edits: tuple[Edit, ...]

    @classmethod
    def of(cls, before: str, after: str, edits: Iterable[Edit]) -> Change:
        """Return the change of one text into another, made by `edits`."""
        return cls(sha256(before.encode()), sha256(after.encode()), tuple(edits))


def absolute(path: File) -> str | None:
    """Return the absolute path of an option as text."""
    return None if path is None else str(Path(path).absolute())


@dataclass(frozen=True)
class Options:
    """The options of a patch that decide its text, as a receipt keeps them; paths are absolute."""

    attention: tuple[str, ...] = ()
    modeling: str | None = None
    quantizer: str = "fa3cli"
    rules: str | None = None

    @classmethod
    def of(cls, options: PatchOptions) -> Options:
        """Return the options of a patch as its receipt keeps them."""
        return cls(entries(options.attention), absolute(options.modeling), options.quantizer, absolute(options.rules))

    def unverifiable(self, library: str) -> str | None:
        """Return why these options' patch cannot be reproduced from only the installed `library`; None if it can."""
        if self.modeling:
            return f"made from {self.modeling}, not from the installed {library}"
        if self.quantizer != "fa3cli":
            return f"it uses the quantizer of {self.quantizer}"
        return f"made by the rules of {self.rules}" if self.rules else None


@dataclass(frozen=True)
class FileChange:
    """One patched file: its path in the folder, its source file, and the change of the text.

    `component` is the part of a pipeline, None for a language model or a file that no index names.
    """

    component: str | None
    module: str
    source: str
    modeling: Change

    def is_ours(self, library: str) -> bool:
        """Tell whether the path is one at which fa3 would write a file."""
        if library == "transformers":
            return self.component is None and re.fullmatch(r"modeling_\w+_fa3\.py", self.module) is not None
        folder, _, name = self.module.rpartition("/")
        return (
            folder == (self.component or "")
            and (self.component is None or is_file_name(folder))
            and re.fullmatch(r"[^/\\\0]+_fa3_[0-9a-f]{12}\.py", name) is not None
        )


@dataclass(frozen=True)
class Receipt:
    """One patch of a folder with modeling files of a `library` in some `version`.

    `index` is the change of config.json or model_index.json, None if it was not changed; `link` is its target if it was
    a link. `rules` is the version of fa3's own patching code, `rule_files` maps the rule files that matched to their
    digests.
    """

    fa3cli: str
    rules: int
    library: Literal["transformers", "diffusers"]
    version: str
    options: Options
    files: tuple[FileChange, ...]
    index: Change | None
    link: str | None = None
    rule_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of the patched files in the folder."""
        return tuple(file.module for file in self.files)

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_receipt(folder: Path) -> Receipt | None:
    """Read the receipt of a folder, None without one; raises ConflictError if fa3 would not write such a receipt."""
    data = _receipt_data(folder)
    if data is None:
        return None
    try:
        receipt = typed(data, Receipt, unknown=False)
        if not receipt.files or (receipt.library == "transformers" and not (receipt.index and len(receipt.files) == 1)):
            raise ValueError(f"{len(receipt.files)} patched files, expected one for each model")
    except ValueError as error:
        raise _unreadable(folder, error) from None
    for file in receipt.files:
        if not file.is_ours(receipt.library):
            raise ConflictError(
                f"{folder / RECEIPT} names a file outside its folder, or one that fa3 would not write: {file.module!r}",
                hint="restore the receipt that fa3 wrote from a copy of the folder",
            )
    return receipt


def receipt_library(folder: Path) -> str | None:
    """Return the library named by a folder's receipt; None without a readable receipt."""
    try:
        found = (_receipt_data(folder) or {}).get("library")
    except ConflictError:
        return None
    return found if isinstance(found, str) else None


def _receipt_data(folder: Path) -> dict[str, Any] | None:
    """Return the data of a folder's receipt, None without one; ConflictError if it is unreadable or .fa3 is a link."""
    path = folder / RECEIPT
    if not _exists_as(path.parent, stat.S_ISDIR, "folder") or not _exists_as(path, stat.S_ISREG, "file"):
        return None
    try:
        data = read_json(path)
    except FileNotFoundError:  # another process has undone the patch
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    if not isinstance(data, dict):
        raise _unreadable(folder, ValueError(f"expected an object, found {type(data).__name__}"))
    return _current_form(data)


def _current_form(data: dict[str, Any]) -> dict[str, Any]:
    """Convert a receipt to the current form; earlier versions had one form per library."""
    if {"library", "version"} & data.keys():
        return data
    for library in ("transformers", "diffusers"):
        if library in data:
            data = {**data, "library": library, "version": data[library]}
            del data[library]
    if "config" in data and not {"files", "index"} & data.keys():
        file = {"component": None} | {key: data.get(key) for key in ("module", "source", "modeling")}
        former = ("module", "source", "modeling", "config", "auto_map_before")
        rest = {key: value for key, value in data.items() if key not in former}
        data = {**rest, "files": [file], "index": data["config"]}
    return data


def _exists_as(path: Path, right: Callable[[int], bool], kind: str) -> bool:
    """Tell whether a path exists as the file or folder that fa3 creates there; ConflictError if it is anything else."""
    try:
        # lstat: a link in this place could lead to a file of the user.
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if not right(mode):
        found = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "something else"
        raise ConflictError(
            f"{path} is {found}, expected a {kind} that fa3 created: fa3 does not read or write there",
            hint="move it elsewhere, then run the command again",
        )
    return True


def _unreadable(folder: Path, error: Exception) -> ConflictError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConflictError(
        f"{folder / RECEIPT} is not a receipt fa3 can read ({why})",
        hint="restore it from a copy; or move it and fa3's files (*_fa3*.py) to another place, remove fa3's entry "
        "from config.json or model_index.json by hand, and patch again",
    )
