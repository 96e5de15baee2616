"""The receipt of a pipeline: like that of a language model, but for several files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fa3cli.errors import ConflictError
from fa3cli.patching import receipt as receipts
from fa3cli.patching.receipt import Change, Options, receipt_data

__all__ = ["FileChange", "PipelineReceipt", "is_receipt_of_pipeline", "read_receipt"]


@dataclass(frozen=True)
class FileChange:
    """One patched file: the part of the pipeline it is for (none: nothing loads it by itself), its path in the folder,
    the file it started from, and what became of that."""

    component: str | None
    module: str
    source: str
    modeling: Change

    @property
    def is_ours(self) -> bool:
        """Whether fa3 would write a file there, in the folder of its part."""
        folder, _, name = self.module.rpartition("/")
        is_part = re.fullmatch(r"[^/\\\0]+", folder) and folder not in (".", "..")
        return (
            folder == (self.component or "")
            and bool(is_part or self.component is None)
            and re.fullmatch(r"[^/\\\0]+_fa3_[0-9a-f]{12}\.py", name) is not None
        )


@dataclass(frozen=True)
class PipelineReceipt:
    """One patch of a pipeline's folder. `index` is the change of model_index.json, None where nothing changed it."""

    fa3cli: str
    rules: int
    diffusers: str
    options: Options
    files: tuple[FileChange, ...]
    index: Change | None
    link: str | None = None
    rule_files: Mapping[str, str] = field(default_factory=dict)

    def strange_name(self) -> str | None:
        """A path of a patched file that fa3 would not write, or "" where there is none at all; None if all are fa3's."""
        if not self.files:
            return ""
        return next((file.module for file in self.files if not file.is_ours), None)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def is_receipt_of_pipeline(folder: Path) -> bool:
    """Whether a folder's receipt is one of these."""
    try:
        return "diffusers" in (receipt_data(folder) or ())
    except ConflictError:
        return False


def read_receipt(folder: Path) -> PipelineReceipt | None:
    """The receipt of a folder, None without one; ConflictError if it is none that fa3 would write."""
    return receipts.read_receipt(folder, PipelineReceipt)
