"""What lies in a weights folder: config.json, a receipt if fa3 patched it, and whether they still fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.patching.config_json import CAUSAL_LM, Config, read_config, take_out
from fa3cli.patching.edits import reverse
from fa3cli.patching.receipt import RECEIPT, Receipt, read_receipt, sha256

__all__ = ["Disk", "look", "module_name", "original_config", "unpatched_config"]


@dataclass(frozen=True)
class Disk:
    """What lies in a folder, before it is judged against the installed transformers."""

    config: Config
    receipt: Receipt | None
    edited: str | None = None
    foreign: str | None = None


def look(folder: Path) -> Disk:
    """Read a folder's config.json and receipt, and compare its files with the receipt."""
    config, receipt = read_config(folder / "config.json"), read_receipt(folder)
    if receipt is None:
        return Disk(config, None, foreign=_foreign(folder, config))
    module = folder / receipt.module
    changed = []
    if module.exists() and sha256(module.read_bytes()) != receipt.modeling.after:
        changed.append(receipt.module)
    if sha256(config.text.encode()) not in (receipt.config.before, receipt.config.after):
        changed.append("config.json")
    return Disk(
        config, receipt, edited=" and ".join(changed) + " changed since fa3 wrote it" if changed else None
    )


def original_config(disk: Disk) -> Config:
    """config.json as it was without fa3's edits; changes made by hand since stay in it."""
    if disk.receipt is None:
        return disk.config
    change, digest = disk.receipt.config, sha256(disk.config.text.encode())
    if digest == change.before:
        return disk.config
    edits = list(change.edits)
    text = reverse(disk.config.text, edits) if digest == change.after else take_out(disk.config, edits)
    return read_config(disk.config.path, text)


def unpatched_config(folder: str | Path) -> dict[str, Any]:
    """What config.json says without fa3's edits."""
    return original_config(look(Path(folder))).data


def module_name(model_type: str) -> str:
    """The name of the patched file."""
    stem = "".join(each if each.isalnum() else "_" for each in model_type)
    return f"modeling_{stem}_fa3.py"


def _foreign(folder: Path, config: Config) -> str | None:
    """Why a folder without receipt isn't ours to patch; None if it is."""
    custom, module = config.causal_lm, folder / module_name(config.model_type)
    if module.exists() or module.is_symlink():
        return f"{module} exists, and there is no {RECEIPT} of fa3"
    if custom is None or custom.repository:
        return None
    if custom.file == module.name:
        return (
            f"{config.path}: auto_map lets {CAUSAL_LM} load {custom.file}, and there is no {RECEIPT} of fa3"
        )
    own = folder / custom.file
    if own.is_file() and b"fa_quantizer" in own.read_bytes():
        return f"{own} has a fa_quantizer already, which fa3 didn't put there"
    return None
