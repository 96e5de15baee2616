"""Determines the state of a folder's patch: complete, up to date, reproducible from the installed library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fa3cli.errors import ConflictError, Fa3Error, MissingCapabilityError
from fa3cli.patch_options import PatchOptions
from fa3cli.patching.folder_patch import plan
from fa3cli.patching.folders.inspection import Disk, look
from fa3cli.patching.formats import Format, format_of
from fa3cli.patching.results import PatchResult

__all__ = ["PatchStatus", "status"]


@dataclass(frozen=True)
class PatchStatus:
    """The state of a folder's patch.

    `state` is unpatched, hand-patched (after the guide), patched, stale (made from another source or by older rules),
    edited (changed since) or foreign (not fa3's); `reason` says why. `reproducible` means that patching the *installed*
    library's source again gives exactly the bytes of `module`, and that the index names no other code of the folder;
    if a patched folder is not reproducible, `reason` says why. `code` maps each module's path in the folder to the
    verified text: the text that patching again gives, not read from the folder. It is empty unless `reproducible`.
    """

    state: str
    reproducible: bool = False
    module: Path | None = None
    class_name: str | None = None
    attention: tuple[str, ...] = ()
    reason: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)


def status(folder: str | Path) -> PatchStatus:
    """Return the state of a folder's patch; broken folders raise as in `plan`, an unreadable receipt counts as foreign.

    A receipt may be forged, so no path that it names is opened.
    """
    folder = Path(folder)
    form = format_of(folder)
    try:
        disk = look(form, folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    module, class_name = form.loaded(disk.index) or (None, None)
    if disk.receipt and module is None:
        module = disk.receipt.modules[0]
    default = PatchStatus("stale", False, folder / module if module else None, class_name)
    if disk.edited or disk.foreign:
        state = "edited" if disk.edited else "foreign"
        return replace(default, state=state, reason=disk.edited or disk.foreign)
    if disk.receipt is None:
        by_hand = form.hand_made(disk.index)
        reason = "patched by hand, and fa3 runs only its own patches" if by_hand else None
        return replace(default, state="hand-patched" if by_hand else "unpatched", reason=reason)
    if reason := disk.receipt.options.unverifiable(form.library):
        return replace(default, state="patched" if disk.is_whole else "stale", reason=reason)
    try:
        made = plan(PatchOptions(folder, attention=disk.receipt.options.attention))
    except MissingCapabilityError:
        raise
    except Fa3Error as error:
        return replace(default, reason=str(error))
    reason = made.result.reason or _folder_code(form, disk, made.result)
    attention = (found.name for file in made.result.files for found in file.attention)
    return replace(
        default,
        state="patched" if made.result.state == "already-patched" else "stale",
        reproducible=reason is None,
        class_name=made.result.files[0].class_name,
        attention=tuple(dict.fromkeys(attention)),
        reason=reason,
        code={} if reason else made.code,
    )


def _folder_code(form: Format, disk: Disk, result: PatchResult) -> str | None:
    """Describe the folder's code that would run and is not from the installed library; None if there is none."""
    for file in result.files:
        if file.origin != "installed":
            return f"made from {file.source}, not from the installed {form.library}"
    return form.other_code(disk.folder, disk.index, {file.component for file in result.files})
