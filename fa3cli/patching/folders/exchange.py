"""Writes and removes a folder's patch, in an order in which the receipt explains every intermediate state.

config.json or model_index.json (the index) may name patched files only while these files and their receipt exist. So
the index is restored first and changed last. A change that fails or is interrupted is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fa3cli.errors import ConflictError
from fa3cli.patching.folders.entries import Entry, original_link, read_entry, write_entry
from fa3cli.patching.folders.receipt import RECEIPT

__all__ = ["Patched", "install_patch", "remove_patch"]

_RECEIPT = str(RECEIPT)
Steps = list[tuple[str, Entry]]


@dataclass(frozen=True)
class Patched:
    """The patch that a folder has, if any: its files, and the path of the index with its unpatched content, if any.

    `receipt` is a new receipt to write first: the folder's own one does not explain changes made by hand.
    """

    index: Mapping[str, Entry]
    modules: tuple[str, ...] = ()
    receipt: bytes | None = None


def install_patch(folder: Path, old: Patched, contents: Mapping[str, bytes]) -> None:
    """Replace a folder's old patch, if there is one, by `contents`, in this order: receipt, modules, index."""
    _run_steps(folder, old, [*(_undo_steps(old) if old.modules else []), *contents.items()])


def remove_patch(folder: Path, old: Patched, link: str | None) -> None:
    """Restore the folder as it was before the patch; an unchanged index that was a `link` becomes a link again."""
    if not old.receipt:
        links = {name: original_link(folder / name, link, entry) for name, entry in old.index.items()}
        old = replace(old, index=links)
    # The receipt is removed last: until then, it explains the rest of the patch.
    _run_steps(folder, old, [*_undo_steps(old), (_RECEIPT, None)])


def _undo_steps(old: Patched) -> Steps:
    """Return the steps that remove all of a patch except its receipt."""
    first = {_RECEIPT: old.receipt} if old.receipt else {}
    return [*first.items(), *old.index.items(), *((name, None) for name in old.modules)]


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
        # The first error is the one to report. If the rollback fails too, the receipt explains the folder's state.
        with suppress(OSError):
            for name, entry in _restore_steps(before, old):
                _put(folder / name, entry)
        raise


def _restore_steps(before: Mapping[str, Entry], old: Patched) -> Steps:
    """Return the steps that restore the entries `before`, from any point at which a change stopped."""
    index = [name for name in old.index if name in before]
    modules = [name for name in before if name not in (_RECEIPT, *old.index)]
    # Through the unpatched state: at every step the index names only files that exist.
    removed: Steps = [*((name, old.index[name]) for name in index), *((name, None) for name in modules)]
    return [*removed, *((name, before[name]) for name in (_RECEIPT, *modules, *index) if name in before)]


def _put(path: Path, entry: Entry) -> None:
    with suppress(OSError):
        if entry is not None and read_entry(path) == entry:
            return
    write_entry(path, entry)


def _entries(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Read the entries at some paths; omit entries that are neither files nor links, as they cannot be restored."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = read_entry(folder / name)
    return found
