"""What patching a folder gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.patching.folder import Disk
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.receipt import Receipt

__all__ = ["PatchPlan", "PatchResult", "UndoResult"]


@dataclass(frozen=True)
class PatchResult:
    """What a patch did, or (from `plan`) would do.

    `state` is would-patch, stale (would replace an older patch, for the `reason`), edited (would replace one changed
    by hand, with force), already-patched, or patched once written. `origin` tells where `source` is: in the installed
    transformers, in the folder (code that came with the weights), or given by --modeling.
    """

    state: str
    folder: Path
    module: Path
    class_name: str
    attention: tuple[AttentionClass, ...]
    origin: str
    source: Path
    transformers: str
    quantizer: str
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    rules: str | None = None


@dataclass(frozen=True)
class PatchPlan:
    """A result with all that has to be written for it: texts before and after, and the receipt."""

    result: PatchResult
    source_text: str
    patched_text: str
    config_before: str
    config_after: str
    receipt: Receipt
    disk: Disk | None


@dataclass(frozen=True)
class UndoResult:
    """The files an undo removed or restored; none if there was nothing to undo."""

    folder: Path
    removed: tuple[Path, ...] = ()
    restored: tuple[Path, ...] = ()
