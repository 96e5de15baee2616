"""Compares a folder's patch with the patch that would be written now, and says why it is stale."""

from __future__ import annotations

from fa3cli.patching.folders.inspection import Disk
from fa3cli.patching.folders.receipt import Receipt, sha256

__all__ = ["difference", "state_of"]


def state_of(disk: Disk | None, new: Receipt) -> tuple[str, str | None]:
    """Return the state of a folder, and the reason if its patch is not the one that would be written now."""
    if disk is None or disk.receipt is None:
        return "would-patch", None
    if disk.edited:
        return "edited", disk.edited
    old = disk.receipt
    for module, digest in disk.modules.items():
        if digest is None:
            return "stale", f"{disk.folder / module} is missing"
    if old.index and sha256(disk.index.text.encode()) != old.index.after:
        return "stale", "an earlier run was interrupted before it had written everything"
    if _outputs(old) == _outputs(new):
        return "already-patched", None
    return "stale", difference(old, new)


def difference(old: Receipt, new: Receipt) -> str:
    """Return the first input that differs between an old patch and the new one, in words."""
    for name, before in vars(old.options).items():
        after = getattr(new.options, name)
        if before != after:
            return f"patched with --{name} {_plain(before)}, requested is {_plain(after)}"
    if old.version != new.version:
        return f"patched with {old.library} {old.version}, installed is {new.version}"
    if old.rules != new.rules:
        return f"patched by rules {old.rules}, current rules are {new.rules}"
    if changed := sorted(name for name, _ in old.rule_files.items() ^ new.rule_files.items()):
        return f"the rule {changed[0]} has changed"
    sources = {file.component: file.modeling.before for file in old.files}
    for file in new.files:
        if sources.get(file.component) != file.modeling.before:
            return f"its source {file.source} has changed"
    borrowed = "; or a file from which it copies classes has changed" * (new.library == "diffusers")
    return f"written by fa3 {old.fa3cli}, this is {new.fa3cli}{borrowed}"


def _outputs(receipt: Receipt) -> tuple[object, ...]:
    return receipt.index, [(file.component, file.modeling.after) for file in receipt.files]


def _plain(option: str | tuple[str, ...] | None) -> str:
    return " ".join(option) if isinstance(option, tuple) and option else str(option or "none")
