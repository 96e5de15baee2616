"""Defines the results of planning, patching and undoing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.patching.folders.inspection import Disk
from fa3cli.patching.folders.receipt import Receipt
from fa3cli.patching.formats import Format
from fa3cli.patching.locating.classes import AttentionClass

__all__ = ["PatchPlan", "PatchResult", "PatchedFile", "UndoResult"]


@dataclass(frozen=True)
class PatchedFile:
    """One patched file: its path, the class that is loaded from it, and its `source` file.

    `component` is the part of a pipeline. `origin` says where the source is: installed (in the library), folder (code
    that came with the weights), or given (--modeling).
    """

    component: str | None
    module: Path
    class_name: str | None
    attention: tuple[AttentionClass, ...]
    origin: str
    source: Path


@dataclass(frozen=True)
class PatchResult:
    """The result of a patch that was written, or (from `plan`) that would be written.

    `state` is would-patch, stale (would replace an older patch; `reason` says why), edited (would replace a patch
    changed by hand, with force), already-patched, or patched (written now). `index` is the document that names the
    files, or None. The sources belong to a `library` in some `version`.
    """

    state: str
    folder: Path
    files: tuple[PatchedFile, ...]
    index: Path | None
    library: str
    version: str
    quantizer: str
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    rules: str | None = None


@dataclass(frozen=True)
class PatchPlan:
    """A result and everything to write for it: the texts of all files and of the index (or ""), before and after."""

    form: Format
    result: PatchResult
    texts: tuple[tuple[str, str], ...]
    index_before: str
    index_after: str
    receipt: Receipt
    disk: Disk | None

    @property
    def code(self) -> dict[str, str]:
        """Map the paths of the patched files in the folder to their texts."""
        return {module: after for module, (_, after) in zip(self.receipt.modules, self.texts)}


@dataclass(frozen=True)
class UndoResult:
    """The files that an undo removed or restored; none if there was nothing to undo."""

    folder: Path
    removed: tuple[Path, ...] = ()
    restored: tuple[Path, ...] = ()
