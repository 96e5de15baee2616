"""What patching a pipeline gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.patching.diffusion.folder import Disk
from fa3cli.patching.diffusion.receipt import PipelineReceipt
from fa3cli.patching.locating.classes import AttentionClass

__all__ = ["PatchedFile", "PipelinePlan", "PipelineResult"]


@dataclass(frozen=True)
class PatchedFile:
    """One file that is written: the part of the pipeline it is for, its path, the class it is loaded as.

    `origin` tells where `source` is: in the installed diffusers, or given by --modeling.
    """

    component: str | None
    module: Path
    class_name: str | None
    attention: tuple[AttentionClass, ...]
    origin: str
    source: Path


@dataclass(frozen=True)
class PipelineResult:
    """What a patch did, or (from `plan`) would do; `state` is as for language models."""

    state: str
    folder: Path
    files: tuple[PatchedFile, ...]
    diffusers: str
    quantizer: str
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    rules: str | None = None


@dataclass(frozen=True)
class PipelinePlan:
    """A result with all that has to be written for it: the texts of each file and of the index, before and after."""

    result: PipelineResult
    texts: tuple[tuple[str, str], ...]
    index_before: str | None
    index_after: str | None
    receipt: PipelineReceipt
    disk: Disk | None
