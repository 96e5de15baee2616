"""Plan, write and undo the patch of a weights folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fa3cli import __version__
from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.patching.classes import AttentionClass
from fa3cli.patching.codemod import RULES, list_source
from fa3cli.patching.config_json import read_config, set_auto_map
from fa3cli.patching.edits import apply
from fa3cli.patching.files import link_folder, make_link, may_fail, remove, write
from fa3cli.patching.folder import Disk, from_installed, look, module_name, original_config, read_source
from fa3cli.patching.installed import Installed, installed_transformers
from fa3cli.patching.receipt import RECEIPT, Change, Receipt, sha256
from fa3cli.patching.results import PatchPlan, PatchResult, UndoResult

__all__ = ["attention_of", "patch", "plan", "undo"]


def plan(
    folder: str | Path,
    *,
    attention: Sequence[str] = (),
    modeling: str | Path | None = None,
    output: str | Path | None = None,
    quantizer: str = "fa3cli",
    force: bool = False,
) -> PatchPlan:
    """Work out a patch without writing anything; raises what `patch` would raise."""
    folder, modeling = Path(folder), Path(modeling) if modeling else None
    target = _output(folder, output)
    source_disk = look(folder)
    if target != folder and source_disk.receipt:
        raise ConflictError(f"{folder} is patched itself", hint="undo that first, or leave out --output")
    disk = source_disk if target == folder else look(target) if (target / RECEIPT).exists() else None
    for each in filter(None, (source_disk, disk)):
        _refuse_conflicts(each, force)
    config = original_config(source_disk)
    installed = installed_transformers()
    warnings = _check_config(config.data, installed)
    path, data, architecture, patched = from_installed(
        installed, config, tuple(attention), quantizer, modeling
    )
    module = module_name(config.model_type)
    edits = set_auto_map(config, f"{module.removesuffix('.py')}.{architecture}")
    config_after = apply(config.text, edits)
    receipt = Receipt(
        fa3cli=__version__,
        rules=RULES,
        transformers=installed.version,
        quantizer=quantizer,
        attention=tuple(attention),
        source=str(path.absolute()),
        given=modeling is not None,
        module=module,
        modeling=Change(sha256(data), sha256(patched.text.encode()), patched.edits),
        config=Change(sha256(config.text.encode()), sha256(config_after.encode()), tuple(edits)),
        auto_map_before=config.data.get("auto_map"),
        link=_link(target, disk),
    )
    state = _state(target, disk, receipt)
    result = PatchResult(
        state, target, target / module, architecture, patched.attention, path, installed.version, quantizer,
        (*warnings, *patched.warnings),
    )  # fmt: skip
    return PatchPlan(result, data.decode(), patched.text, config.text, config_after, receipt, disk)


def patch(
    folder: str | Path,
    *,
    attention: Sequence[str] = (),
    modeling: str | Path | None = None,
    output: str | Path | None = None,
    quantizer: str = "fa3cli",
    force: bool = False,
) -> PatchResult:
    """Patch a weights folder: write the modeling file and config.json's auto_map, or nothing at all.

    `attention` names classes (none: the one the architecture is built of), `modeling` a modeling file other than
    the installed transformers' own, `output` a folder to make instead of changing this one, `quantizer` whose
    FAQuantizer to import (fa3cli or msmodelslim). `force` replaces a patch that was changed by hand.
    """
    made = plan(
        folder, attention=attention, modeling=modeling, output=output, quantizer=quantizer, force=force
    )
    target = made.result.folder
    if made.result.state == "already-patched":
        return made.result
    with may_fail(target):
        if made.disk and made.disk.receipt:
            undo(target, force=force)
        if target != Path(folder):
            _make_output(Path(folder), target, made.config_before.encode())
        # The receipt first: it explains every state a crash between the writes can leave.
        write(target / RECEIPT, made.receipt.to_json().encode())
        try:
            write(made.result.module, made.patched_text.encode())
            write(target / "config.json", made.config_after.encode())
        except OSError:
            undo(target)
            raise
    return replace(made.result, state="patched")


def attention_of(folder: str | Path, *, modeling: str | Path | None = None) -> tuple[AttentionClass, ...]:
    """Every attention class of the modeling file a folder would be patched from, patchable or not."""
    model_type = read_config(Path(folder) / "config.json").model_type
    path = Path(modeling) if modeling else installed_transformers().modeling_file(model_type).path
    return list_source(read_source(path), name=str(path))


def undo(folder: str | Path, *, force: bool = False) -> UndoResult:
    """Take a patch back: every byte of config.json as it was, and nothing left that fa3 added.

    ConflictError if the folder's patch isn't fa3's, or was changed by hand and `force` isn't given.
    """
    folder = Path(folder)
    disk = look(folder)
    _refuse_conflicts(disk, force)
    if disk.receipt is None:
        return UndoResult(folder)
    receipt, config, path = disk.receipt, original_config(disk).text.encode(), folder / "config.json"
    restored = (path,) if config != disk.config.text.encode() else ()
    with may_fail(folder):
        if (
            receipt.link
            and (folder / receipt.link).is_file()
            and (folder / receipt.link).read_bytes() == config
        ):
            make_link(path, receipt.link)
        elif restored:
            write(path, config)
        remove(folder / receipt.module)
        remove(folder / RECEIPT)
    return UndoResult(folder, (folder / receipt.module, folder / RECEIPT), restored)


def _output(folder: Path, output: str | Path | None) -> Path:
    """The folder to patch; refuses an output folder that isn't new, empty, or made by us."""
    if output is None or Path(output).resolve() == folder.resolve():
        return folder
    target = Path(output)
    if target.exists() and not target.is_dir():
        raise ConflictError(f"{target} is not a folder")
    if not target.exists() or not any(target.iterdir()) or (target / RECEIPT).exists():
        return target
    # What a run that was cut off leaves: links to all there is, and a config.json.
    links = {entry.name for entry in target.iterdir() if entry.is_symlink()}
    own = {entry.name for entry in target.iterdir()} - links
    if own != {"config.json"} or not {entry.name for entry in folder.iterdir()} <= links | own:
        raise ConflictError(
            f"{target} already holds something else", hint="give a new or empty folder to --output"
        )
    return target


def _refuse_conflicts(disk: Disk, force: bool) -> None:
    if disk.foreign:
        raise ConflictError(
            disk.foreign, hint="take the other patch back, or start from a fresh copy of the folder"
        )
    if disk.edited and not force:
        raise ConflictError(f"{disk.config.path.parent}: {disk.edited}", hint="--force gives up the changes")


def _check_config(data: dict[str, Any], installed: Installed) -> tuple[str, ...]:
    """Refuse what the config says can't work, and return what to warn of."""
    parts = [name for name, part in data.items() if isinstance(part, dict) and part.get("model_type")]
    if parts:
        raise UnsupportedError(
            f"config.json describes a composite model ({parts[0]}): its parts can't be patched yet"
        )
    rope = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if isinstance(rope, dict) and rope.get("rope_type") == "llama3" and installed.older_than(4, 43, 0):
        raise UnsupportedError(
            f"Llama 3.1 (rope_type llama3) needs transformers 4.43.0 or newer, installed is {installed.version}"
        )
    written = data.get("transformers_version")
    if written and written != installed.version:
        return (f"config.json was written by transformers {written}, installed is {installed.version}",)
    return ()


def _link(target: Path, disk: Disk | None) -> str | None:
    """What config.json links to, or did before it was patched."""
    path = target / "config.json"
    if path.is_symlink():
        return os.readlink(path)
    return disk.receipt.link if disk and disk.receipt else None


def _state(target: Path, disk: Disk | None, receipt: Receipt) -> str:
    if disk is None or disk.receipt is None:
        return "would-patch"
    if disk.edited:
        return "edited"
    module = target / receipt.module
    done = (
        module.exists()
        and sha256(module.read_bytes()) == receipt.modeling.after
        and sha256(disk.config.text.encode()) == receipt.config.after
    )
    return "already-patched" if done else "stale"


def _make_output(folder: Path, target: Path, config: bytes) -> None:
    if not target.exists() or not any(target.iterdir()):
        link_folder(folder, target, config)
    else:
        write(target / "config.json", config)
