"""`.fa3/patch.json`: what a patch was made of and did, so that it can be undone and its age be seen."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fa3cli.errors import ConflictError
from fa3cli.files.documents import read_json, typed
from fa3cli.files.reading import read_bytes
from fa3cli.patching.edits import Edit

__all__ = ["RECEIPT", "Change", "Options", "Receipt", "digest_of", "read_receipt", "receipt_data", "sha256"]

RECEIPT = Path(".fa3", "patch.json")
UNREADABLE = "unreadable"


class AnyReceipt(Protocol):
    """A receipt of either kind of folder."""

    def strange_name(self) -> str | None:
        """A path of a patched file that fa3 would not write; None if all are fa3's."""


R = TypeVar("R", bound=AnyReceipt)


def sha256(data: bytes) -> str:
    """The digest a receipt knows a file by."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str | None:
    """The digest of a file, None where there is nothing, `UNREADABLE` for what is no file or can't be read."""
    try:
        return sha256(read_bytes(path))
    except OSError:
        return UNREADABLE if os.path.lexists(path) else None


@dataclass(frozen=True)
class Change:
    """What becomes of one text: digests before and after, and the edits between."""

    before: str
    after: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Options:
    """What a user asked for besides the folder; each is named like its option of `fa3 patch`."""

    attention: tuple[str, ...] = ()
    modeling: str | None = None
    quantizer: str = "fa3cli"
    rules: str | None = None

    def unverifiable(self, library: str) -> str | None:
        """Why a patch made by these options can't be made again from the installed `library` alone; None if it can."""
        if self.modeling:
            return f"made from {self.modeling}, not from the installed {library}"
        if self.quantizer != "fa3cli":
            return f"it takes the quantizer of {self.quantizer}"
        return f"made by the rules of {self.rules}" if self.rules else None


@dataclass(frozen=True)
class Receipt:
    """One patch. `source` is the modeling file it started from, `link` what config.json pointed to if it was a link.

    `rules` counts what fa3 knows of itself, `rule_files` are the files of rules that had a say, with their digests.
    """

    fa3cli: str
    rules: int
    transformers: str
    options: Options
    source: str
    module: str
    modeling: Change
    config: Change
    auto_map_before: dict[str, Any] | None
    link: str | None = None
    rule_files: Mapping[str, str] = field(default_factory=dict)

    def strange_name(self) -> str | None:
        """The name of the patched file if fa3 gives no such name; None if it does."""
        return None if re.fullmatch(r"modeling_\w+_fa3\.py", self.module) else self.module

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_receipt(folder: Path, kind: type[R] = Receipt) -> R | None:
    """The receipt of a folder, None without one; ConflictError if it is none that fa3 would write."""
    data = receipt_data(folder)
    if data is None:
        return None
    try:
        receipt = typed(data, kind)
        _refuse_unknown(data, asdict(receipt))
    except ValueError as error:
        raise _unreadable(folder, error) from None
    if (name := receipt.strange_name()) is not None:
        raise ConflictError(
            f"{folder / RECEIPT} names a file outside its folder, or one that fa3 would not write: {name!r}",
            hint="restore the receipt that fa3 wrote from a copy of the folder",
        )
    return receipt


def receipt_data(folder: Path) -> Any:
    """What a folder's receipt says, None without one; ConflictError if it can't be read, or fa3's folder is a link."""
    path = folder / RECEIPT
    if not _is(path.parent, stat.S_ISDIR, "folder") or not _is(path, stat.S_ISREG, "file"):
        return None
    try:
        data = read_json(path)
    except FileNotFoundError:  # another process has undone the patch
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    if not isinstance(data, dict):
        raise _unreadable(folder, ValueError(f"expected an object, found {type(data).__name__}"))
    return data


def _is(path: Path, right: Callable[[int], bool], what: str) -> bool:
    """Whether something is there that fa3 makes itself, as a file or folder; ConflictError if it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if not right(mode):
        found = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "something else"
        raise ConflictError(
            f"{path} is {found}, expected a {what} of fa3's own: fa3 neither reads nor writes there",
            hint="move it elsewhere, then run the command again",
        )
    return True


def _refuse_unknown(data: Any, known: Any) -> None:
    """Raise ValueError for a field that a receipt does not have."""
    if isinstance(data, dict) and isinstance(known, dict):
        if unknown := sorted(data.keys() - known.keys()):
            raise ValueError(f"unknown field {unknown[0]!r}")
        for key, value in data.items():
            _refuse_unknown(value, known[key])
    elif isinstance(data, list):
        for value, of in zip(data, known):
            _refuse_unknown(value, of)


def _unreadable(folder: Path, error: Exception) -> ConflictError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConflictError(
        f"{folder / RECEIPT} is not a receipt fa3 can read ({why})",
        hint="restore it from a copy; or move it and the files named *_fa3*.py that fa3 wrote elsewhere, take fa3's "
        "entry out of config.json or model_index.json by hand, and patch again",
    )
