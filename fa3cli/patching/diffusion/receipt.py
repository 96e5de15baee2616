"""The receipt of a pipeline: like that of a language model, but for several files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit
from fa3cli.patching.receipt import RECEIPT, Change, Options

__all__ = ["FileChange", "PipelineReceipt", "is_receipt_of_pipeline", "read_receipt"]


@dataclass(frozen=True)
class FileChange:
    """One patched file: the part of the pipeline it is for (none: nothing loads it by itself), its path in the folder,
    the file it started from, and what became of that."""

    component: str | None
    module: str
    source: str
    modeling: Change


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

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def is_receipt_of_pipeline(folder: Path) -> bool:
    """Whether a folder's receipt is one of these."""
    try:
        data = json.loads((folder / RECEIPT).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "diffusers" in data


def read_receipt(folder: Path) -> PipelineReceipt | None:
    """The receipt of a folder, None without one; ConflictError if it can't be read."""
    path = folder / RECEIPT
    try:
        data = json.loads(path.read_bytes())
        data["options"]["attention"] = tuple(data["options"]["attention"])
        data["options"] = Options(**data["options"])
        data["index"] = data["index"] and _change(data["index"])
        data["files"] = tuple(
            FileChange(**{**each, "modeling": _change(each["modeling"])}) for each in data["files"]
        )
        receipt = PipelineReceipt(**data)
        inside = all(_stays_inside(each) for each in receipt.files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConflictError(
            f"{path} is not a receipt fa3 can read ({error})",
            hint="restore it; or remove it and the patched files, take model_index.json back, then patch again",
        ) from None
    if not inside:
        raise ConflictError(f"{path} names a file outside its folder")
    return receipt


def _change(data: dict[str, Any]) -> Change:
    return Change(data["before"], data["after"], tuple(Edit(**edit) for edit in data["edits"]))


def _stays_inside(file: FileChange) -> bool:
    parts = PurePosixPath(file.module).parts
    place = () if file.component is None else (file.component,)
    return (
        parts[:-1] == place and ".." not in parts and file.module.endswith(".py") and "\\" not in file.module
    )
