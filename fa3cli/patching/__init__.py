"""Patches modeling files as text: finds the file and the sites of the calls, edits config.json, keeps a receipt.

This package never imports torch or transformers.
"""

from fa3cli.patching.folder_patch import attention_of, patch, plan, undo
from fa3cli.patching.folders.inspection import unpatched_config
from fa3cli.patching.formats import is_pipeline
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.results import PatchedFile, PatchPlan, PatchResult, UndoResult
from fa3cli.patching.sources import PatchedSource, list_source, patch_source
from fa3cli.patching.status import PatchStatus, status

__all__ = [
    "AttentionClass",
    "PatchPlan",
    "PatchResult",
    "PatchStatus",
    "PatchedFile",
    "PatchedSource",
    "UndoResult",
    "attention_of",
    "is_pipeline",
    "list_source",
    "patch",
    "patch_source",
    "plan",
    "status",
    "undo",
    "unpatched_config",
]
