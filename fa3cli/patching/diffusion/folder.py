"""What lies in a pipeline's folder: model_index.json, a receipt if fa3 patched it, and whether they still fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.patching.config_json import Config, read_config
from fa3cli.patching.diffusion.index import INDEX, take_out
from fa3cli.patching.diffusion.receipt import PipelineReceipt, is_receipt_of_pipeline, read_receipt
from fa3cli.patching.edits import reverse
from fa3cli.patching.receipt import sha256

__all__ = ["Disk", "is_pipeline", "look", "original_index"]


@dataclass(frozen=True)
class Disk:
    """What lies in a folder; `edited` says what was changed since fa3 wrote it."""

    index: Config | None
    receipt: PipelineReceipt | None
    edited: str | None = None


def is_pipeline(folder: str | Path, modeling: str | Path | None = None) -> bool:
    """Whether a folder is one of diffusers: it has a model_index.json, or no config.json but a file to start from."""
    folder = Path(folder)
    if is_receipt_of_pipeline(folder) or (folder / INDEX).exists():
        return True
    return modeling is not None and folder.is_dir() and not (folder / "config.json").exists()


def look(folder: Path) -> Disk:
    """Read a folder's index and receipt, and compare its files with the receipt."""
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is not a folder")
    receipt = read_receipt(folder)
    index = read_config(folder / INDEX) if (folder / INDEX).exists() or (receipt and receipt.index) else None
    if receipt is None:
        return Disk(index, None)
    changed = [
        each.module
        for each in receipt.files
        if (folder / each.module).exists()
        and sha256((folder / each.module).read_bytes()) != each.modeling.after
    ]
    if receipt.index and sha256(index.text.encode()) not in (receipt.index.before, receipt.index.after):
        changed.append(INDEX)
    return Disk(index, receipt, " and ".join(changed) + " changed since fa3 wrote it" if changed else None)


def original_index(disk: Disk) -> Config | None:
    """model_index.json as it was without fa3's edits; changes made by hand since stay in it."""
    if disk.index is None or disk.receipt is None or disk.receipt.index is None:
        return disk.index
    change, digest = disk.receipt.index, sha256(disk.index.text.encode())
    if digest == change.before:
        return disk.index
    text = (
        reverse(disk.index.text, change.edits)
        if digest == change.after
        else take_out(disk.index, change.edits)
    )
    return read_config(disk.index.path, text)
