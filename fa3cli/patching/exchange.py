"""Puts a patch into a folder and takes it out, in an order in which a receipt explains every state in between.

config.json or model_index.json (the index) names patched files only while they and their receipt are there. So it is
restored first and changed last. What fails or is interrupted is taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fa3cli.errors import ConflictError
from fa3cli.patching.files import Entry, original_link, read_entry, write_entry
from fa3cli.patching.receipt import RECEIPT

__all__ = ["Patched", "install_patch", "remove_patch"]

_RECEIPT = str(RECEIPT)
Steps = list[tuple[str, Entry]]


@dataclass(frozen=True)
class Patched:
    """A patch that lies in a folder, or none: its files, and the index (None: it has none) with what that is without it.

    `receipt` is written first where the one that is there doesn't explain the folder: it was changed by hand since.
    """

    index: str | None
    unpatched: Entry
    modules: tuple[str, ...] = ()
    receipt: bytes | None = None


def install_patch(folder: Path, old: Patched, contents: Mapping[str, bytes]) -> None:
    """Replace the old patch of a folder, if it has one, by the files of a new one: its receipt, its modules, its index."""
    _run_steps(folder, old, [*(_undo_steps(old) if old.modules else []), *contents.items()])


def remove_patch(folder: Path, old: Patched, link: str | None) -> None:
    """Make a folder what it was before it was patched; the index too is a `link` again, unless it was changed since."""
    if old.index and not old.receipt:
        old = replace(old, unpatched=original_link(folder / old.index, link, old.unpatched))
    _run_steps(folder, old, [*_undo_steps(old), (_RECEIPT, None)])


def _undo_steps(old: Patched) -> Steps:
    """What leaves of a patch nothing but its receipt."""
    first = [(_RECEIPT, old.receipt)] if old.receipt else []
    index = [(old.index, old.unpatched)] if old.index else []
    return [*first, *index, *((name, None) for name in old.modules)]


def _run_steps(folder: Path, old: Patched, steps: Steps) -> None:
    names = dict.fromkeys(name for name, _ in steps)
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            raise ConflictError(f"{path} is a folder, expected a file", hint="move it elsewhere")
    before = _entries(folder, names)
    try:
        for name, entry in steps:
            _put(folder / name, entry)
    except BaseException:
        with suppress(
            OSError
        ):  # what went wrong first is what counts; the receipt explains how far this came
            for name, entry in _restore_steps(before, old):
                _put(folder / name, entry)
        raise


def _restore_steps(before: Mapping[str, Entry], old: Patched) -> Steps:
    """What makes a folder again what it was, from wherever a change of it stopped."""
    index = [old.index] if old.index in before else []
    modules = [name for name in before if name not in (_RECEIPT, old.index)]
    removed: Steps = [*((name, old.unpatched) for name in index), *((name, None) for name in modules)]
    return [*removed, *((name, before[name]) for name in (_RECEIPT, *modules, *index) if name in before)]


def _put(path: Path, entry: Entry) -> None:
    with suppress(OSError):
        if entry is not None and read_entry(path) == entry:
            return
    write_entry(path, entry)


def _entries(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """What paths of a folder are; what is neither a file nor a link could not be made again, and is left out."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = read_entry(folder / name)
    return found
