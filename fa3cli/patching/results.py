"""What patching a folder gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.patching.folder import Disk
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.receipt import Receipt

__all__ = ["PatchPlan", "PatchResult", "PatchedFile", "UndoResult"]


@dataclass(frozen=True)
class PatchedFile:
    """One patched file: its path, the class it is loaded as, and the `source` it is made of.

    `component` is the part of a pipeline it is for. `origin` says where the source is: in the installed library, in the
    folder (code that came with the weights), or given by --modeling.
    """

    component: str | None
    module: Path
    class_name: str | None
    attention: tuple[AttentionClass, ...]
    origin: str
    source: Path


@dataclass(frozen=True)
class PatchResult:
    """What a patch did, or (from `plan`) would do.

    `state` is would-patch, stale (would replace an older patch, for the `reason`), edited (would replace one changed
    by hand, with force), already-patched, or patched once written. `index` is the document that names the files; None
    where nothing does. The sources are of a `library` of a `version`.
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
    """A result with all that has to be written for it: the texts of each file and of the index, before and after."""

    result: PatchResult
    texts: tuple[tuple[str, str], ...]
    index_before: str | None
    index_after: str | None
    receipt: Receipt
    disk: Disk | None

    @property
    def code(self) -> dict[str, str]:
        """The patched texts by the files' paths in the folder."""
        return {module: after for module, (_, after) in zip(self.receipt.modules, self.texts)}


@dataclass(frozen=True)
class UndoResult:
    """The files an undo removed or restored; none if there was nothing to undo."""

    folder: Path
    removed: tuple[Path, ...] = ()
    restored: tuple[Path, ...] = ()
