"""What the patch of a folder is worth: whole, up to date, and made from the installed transformers?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fa3cli.errors import ConflictError, Fa3Error
from fa3cli.patching.api import plan
from fa3cli.patching.config_json import CAUSAL_LM
from fa3cli.patching.diffusion import folder as diffusion
from fa3cli.patching.diffusion.folder import is_pipeline
from fa3cli.patching.diffusion.index import components
from fa3cli.patching.folder import look
from fa3cli.patching.locating.classes import AttentionClass

__all__ = ["PatchStatus", "status"]


@dataclass(frozen=True)
class PatchStatus:
    """What a folder's patch is worth.

    `state` is unpatched, patched, stale (made from another source or by older rules), edited (changed since) or
    foreign (not fa3's), with the `reason`. `reproducible` means that patching the *installed* transformers'
    source again gives the very bytes of `module`, and that config.json maps nothing else to code of the folder;
    where that fails alone, `reason` says why. `code` is then the verified text by each module's path in the folder: the
    very text that patching again gives, not read from the folder; empty unless `reproducible`.
    """

    state: str
    reproducible: bool = False
    module: Path | None = None
    class_name: str | None = None
    attention: tuple[str, ...] = ()
    reason: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)


def status(folder: str | Path) -> PatchStatus:
    """Judge the patch of a folder; broken folders raise as `plan` does, an unreadable receipt is foreign.

    A receipt may be forged: a path that one names is not opened.
    """
    folder = Path(folder)
    if is_pipeline(folder):
        return _of_pipeline(folder)
    try:
        disk = look(folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    custom = disk.config.causal_lm
    module = folder / custom.file if custom and not custom.repository else None
    judged = PatchStatus("unpatched", False, module, custom.name if custom else None)
    if disk.receipt is None or disk.edited:
        state = "edited" if disk.edited else "foreign" if disk.foreign else "unpatched"
        return replace(judged, state=state, reason=disk.edited or disk.foreign)
    if reason := disk.receipt.options.unverifiable("transformers"):
        return replace(judged, state="patched" if disk.is_whole else "stale", reason=reason)
    try:
        made = plan(folder, attention=disk.receipt.options.attention)
    except Fa3Error as error:
        return replace(judged, state="stale", reason=str(error))
    reason, others = made.result.reason, sorted(disk.config.auto_map.keys() - {CAUSAL_LM})
    if made.result.origin != "installed":
        reason = reason or f"made from {made.result.source}, not from the installed transformers"
    elif others:
        reason = reason or f"auto_map lets {', '.join(others)} load code too"
    code = {made.receipt.module: made.patched_text}
    return _judged(judged, made.result.state, made.result.attention, reason, code)


def _of_pipeline(folder: Path) -> PatchStatus:
    """The same of a pipeline; its module and class are those of the first transformer."""
    try:
        disk = diffusion.look(folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    receipt = disk.receipt
    if receipt is None or disk.edited:
        return PatchStatus("edited" if disk.edited else "unpatched", reason=disk.edited)
    judged = PatchStatus("stale", False, folder / receipt.files[0].module)
    if reason := receipt.options.unverifiable("diffusers"):
        return replace(judged, state="patched" if disk.is_whole else "stale", reason=reason)
    try:
        made = plan(folder, attention=receipt.options.attention)
    except Fa3Error as error:
        return replace(judged, reason=str(error))
    reason, ours = made.result.reason, {each.component for each in made.result.files}
    others = [
        each.name
        for each in (components(disk.index) if disk.index else [])
        if each.name not in ours and os.path.lexists(folder / each.name / f"{each.library}.py")
    ]
    if others:
        reason = reason or f"model_index.json lets {', '.join(others)} load code too"
    code = {file.module: text for file, (_, text) in zip(made.receipt.files, made.texts)}
    attention = [each for file in made.result.files for each in file.attention]
    judged = replace(judged, class_name=made.result.files[0].class_name)
    return _judged(judged, made.result.state, attention, reason, code)


def _judged(
    judged: PatchStatus,
    state: str,
    attention: Iterable[AttentionClass],
    reason: str | None,
    code: Mapping[str, str],
) -> PatchStatus:
    """What a patch that could be made again is worth."""
    return replace(
        judged,
        state="patched" if state == "already-patched" else "stale",
        reproducible=reason is None,
        attention=tuple(dict.fromkeys(each.name for each in attention)),
        reason=reason,
        code={} if reason else code,
    )
