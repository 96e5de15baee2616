"""What the patch of a folder is worth: whole, up to date, and made from the installed transformers?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fa3cli.errors import ConflictError, Fa3Error
from fa3cli.patching.api import plan
from fa3cli.patching.config_json import CAUSAL_LM
from fa3cli.patching.diffusion import folder as diffusion
from fa3cli.patching.diffusion.folder import is_pipeline
from fa3cli.patching.diffusion.index import components
from fa3cli.patching.folder import look

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
    """Judge the patch of a folder; broken folders raise as `plan` does, an unreadable receipt is foreign."""
    folder = Path(folder)
    if is_pipeline(folder):
        return _of_pipeline(folder)
    try:
        disk = look(folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    custom = disk.config.causal_lm
    module = folder / custom.file if custom and not custom.repository else None
    class_name = custom.name if custom else None
    if disk.receipt is None or disk.edited:
        state = "edited" if disk.edited else "foreign" if disk.foreign else "unpatched"
        return PatchStatus(state, False, module, class_name, reason=disk.edited or disk.foreign)
    options = disk.receipt.options
    try:
        made = plan(folder, **vars(options))
    except Fa3Error as error:
        return PatchStatus("stale", False, module, class_name, reason=str(error))
    result = made.result
    state = "patched" if result.state == "already-patched" else "stale"
    others = sorted(disk.config.auto_map.keys() - {CAUSAL_LM})
    reason = result.reason
    if result.origin != "installed":
        reason = reason or f"made from {result.source}, not from the installed transformers"
    elif options.quantizer != "fa3cli":
        reason = reason or f"it takes the quantizer of {options.quantizer}"
    elif options.rules:
        reason = reason or f"made by the rules of {options.rules}"
    elif others:
        reason = reason or f"auto_map lets {', '.join(others)} load code too"
    names = tuple(each.name for each in result.attention)
    code = {} if reason else {made.receipt.module: made.patched_text}
    return PatchStatus(state, reason is None, module, class_name, names, reason, code)


def _of_pipeline(folder: Path) -> PatchStatus:
    """The same of a pipeline; its module and class are those of the first transformer."""
    try:
        disk = diffusion.look(folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    if disk.receipt is None or disk.edited:
        return PatchStatus("edited" if disk.edited else "unpatched", reason=disk.edited)
    options, first = disk.receipt.options, folder / disk.receipt.files[0].module
    try:
        made = plan(folder, **vars(options))
    except Fa3Error as error:
        return PatchStatus("stale", False, first, reason=str(error))
    result = made.result
    reason, given = result.reason, [each for each in result.files if each.origin != "installed"]
    ours = {each.component for each in result.files}
    others = [
        each.name
        for each in (components(disk.index) if disk.index else [])
        if each.name not in ours and (folder / each.name / f"{each.library}.py").exists()
    ]
    if given:
        reason = reason or f"made from {given[0].source}, not from the installed diffusers"
    elif options.quantizer != "fa3cli":
        reason = reason or f"it takes the quantizer of {options.quantizer}"
    elif options.rules:
        reason = reason or f"made by the rules of {options.rules}"
    elif others:
        reason = reason or f"model_index.json lets {', '.join(others)} load code too"
    state = "patched" if result.state == "already-patched" else "stale"
    names = tuple(dict.fromkeys(each.name for file in result.files for each in file.attention))
    pairs = zip(made.receipt.files, made.texts)
    code = {} if reason else {file.module: text for file, (_, text) in pairs}
    return PatchStatus(state, reason is None, first, result.files[0].class_name, names, reason, code)
