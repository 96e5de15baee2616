"""What lies in a weights folder: config.json, a receipt if fa3 patched it, and whether they still fit each other."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fa3cli.patching.config_json import CAUSAL_LM, Config, read_config, require_types
from fa3cli.patching.edits import Edit
from fa3cli.patching.exchange import Patched
from fa3cli.patching.files import entry_of
from fa3cli.patching.origin import mentions_quantizer
from fa3cli.patching.receipt import RECEIPT, UNREADABLE, Change, Receipt, digest_of, read_receipt, sha256
from fa3cli.patching.reverting import unpatched

__all__ = ["CONFIG", "Disk", "look", "module_name", "original_config", "patched_parts", "unpatched_config"]

CONFIG = "config.json"


@dataclass(frozen=True)
class Disk:
    """What lies in a folder, before it is judged against the installed transformers.

    `module` is the digest of the patched file, None where it is missing.
    """

    config: Config
    receipt: Receipt | None
    edited: str | None = None
    foreign: str | None = None
    module: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether a patch is there as it was written, all of it."""
        after = self.receipt and self.receipt.config.after
        return self.module is not None and not self.edited and sha256(self.config.text.encode()) == after


def look(folder: Path) -> Disk:
    """Read a folder's config.json and receipt, and compare its files with the receipt."""
    config, receipt = read_config(folder / CONFIG), read_receipt(folder)
    require_types(config)
    if receipt is None:
        return Disk(config, None, foreign=_foreign(folder, config))
    module = digest_of(folder / receipt.module)
    changed = [receipt.module] if module not in (None, receipt.modeling.after) else []
    if sha256(config.text.encode()) not in (receipt.config.before, receipt.config.after):
        changed.append(CONFIG)
    edited = " and ".join(changed) + " changed since fa3 wrote it" if changed else None
    return Disk(config, receipt, edited, module=module)


def original_config(disk: Disk) -> Config:
    """config.json as it was without fa3's edits; changes made by hand since stay in it."""
    return disk.config if disk.receipt is None else unpatched(disk.config, disk.receipt.config)


def unpatched_config(folder: str | Path) -> dict[str, Any]:
    """What config.json says without fa3's edits."""
    return original_config(look(Path(folder))).data


def patched_parts(disk: Disk, original: str) -> Patched:
    """The patch of a folder whose config.json is to be `original` without it."""
    path, receipt = disk.config.path, disk.receipt
    if receipt is None:
        return Patched(CONFIG, entry_of(path))
    data, text = original.encode(), disk.config.text
    explained = not disk.edited and sha256(data) == receipt.config.before
    change = Change(sha256(data), sha256(text.encode()), (Edit(0, original, text),))
    found = receipt.modeling.after if disk.module in (None, UNREADABLE) else disk.module
    bridge = replace(receipt, config=change, modeling=replace(receipt.modeling, after=found))
    return Patched(CONFIG, data, (receipt.module,), None if explained else bridge.to_json().encode())


def module_name(model_type: str) -> str:
    """The name of the patched file."""
    stem = "".join(each if each.isalnum() else "_" for each in model_type)
    return f"modeling_{stem}_fa3.py"


def _foreign(folder: Path, config: Config) -> str | None:
    """Why a folder without receipt isn't ours to patch; None if it is."""
    custom, module = config.causal_lm, folder / module_name(config.model_type)
    if os.path.lexists(module):
        return f"{module} exists, and there is no {RECEIPT} of fa3"
    if custom is None or custom.repository:
        return None
    if custom.file == module.name:
        return (
            f"{config.path}: auto_map lets {CAUSAL_LM} load {custom.file}, and there is no {RECEIPT} of fa3"
        )
    own = folder / custom.file
    return (
        f"{own} has a fa_quantizer already, which fa3 didn't put there" if mentions_quantizer(own) else None
    )
