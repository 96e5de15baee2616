"""Patches modeling files as text: finds the file and the sites of the calls, edits config.json, keeps a receipt.

This package never imports torch or transformers.
"""

from fa3cli.options import takes
from fa3cli.patch_options import PatchOptions
from fa3cli.patching import folder_patch
from fa3cli.patching.folder_patch import attention_of, undo
from fa3cli.patching.folders.inspection import unpatched_config
from fa3cli.patching.folders.model_folder import require_float_model
from fa3cli.patching.formats import is_pipeline
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.results import PatchedFile, PatchPlan, PatchResult, UndoResult
from fa3cli.patching.sources import PatchedSource, list_source, patch_source
from fa3cli.patching.status import PatchStatus, status

plan = takes(PatchOptions)(folder_patch.plan)
patch = takes(PatchOptions)(folder_patch.patch)

__all__ = [
    "AttentionClass",
    "PatchOptions",
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
    "require_float_model",
    "status",
    "undo",
    "unpatched_config",
]
