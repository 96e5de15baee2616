"""Plans, writes and undoes the patch of a folder: a language model's weights or a diffusers pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fa3cli import __version__
from fa3cli.errors import ConflictError
from fa3cli.patch_options import PatchOptions
from fa3cli.patching.edits import apply
from fa3cli.patching.folders.difference import state_of
from fa3cli.patching.folders.entries import exclusive_folder, explain_write_errors
from fa3cli.patching.folders.exchange import install_patch, remove_patch
from fa3cli.patching.folders.inspection import Disk, look, original_index, patched_parts, refuse_links
from fa3cli.patching.folders.model_folder import require_float_model
from fa3cli.patching.folders.output import is_new, make_output, output_folder, require_output_of
from fa3cli.patching.folders.receipt import RECEIPT, Change, FileChange, Options, Receipt, absolute
from fa3cli.patching.formats import Format, format_of
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origins.build import Build
from fa3cli.patching.results import PatchedFile, PatchPlan, PatchResult, UndoResult
from fa3cli.patching.sources import RULES

__all__ = ["attention_of", "patch", "plan", "undo"]


def plan(options: PatchOptions) -> PatchPlan:
    """Compute a patch without writing anything; raises the same errors as `patch`."""
    return _plan(options, _target(options))


def patch(options: PatchOptions) -> PatchResult:
    """Patch a folder: write its modeling files and the index that names them, or nothing at all.

    The index is config.json (its auto_map), or model_index.json of a pipeline.
    """
    folder, target = Path(options.weights_dir), _target(options)
    with exclusive_folder(target):
        made = _plan(options, target)
        if made.result.state == "already-patched":
            return made.result
        form = made.form
        index = {form.index: made.index_after} if made.receipt.index else {}
        texts = {str(RECEIPT): made.receipt.to_json(), **made.code, **index}
        contents = {name: text.encode() for name, text in texts.items()}
        with explain_write_errors(target):
            if made.disk is None:
                make_output(folder, target, contents)
            else:
                install_patch(target, patched_parts(form, made.disk, made.index_before), contents)
    return replace(made.result, state="patched")


def attention_of(
    folder: str | Path, *, modeling: str | Path | None = None, rules: str | Path | None = None
) -> tuple[AttentionClass, ...]:
    """List every attention class of the modeling files that a folder would be patched from, patchable or not."""
    folder = Path(folder)
    form = format_of(folder, modeling)
    disk = look(form, folder)
    origins = form.origins(folder, original_index(disk), absolute(modeling), disk.receipt)
    return tuple(dict.fromkeys(found for origin in origins for found in form.attention(origin, rules)))


def undo(folder: str | Path, *, force: bool = False) -> UndoResult:
    """Undo a patch: restore every byte of the index and remove every file that fa3 added.

    Raises ConflictError if the folder's patch is not fa3's, or was changed by hand and `force` is not given.
    """
    folder = Path(folder)
    form = format_of(folder)
    with exclusive_folder(folder):
        disk = look(form, folder)
        _refuse_conflicts(disk, force)
        if disk.receipt is None:
            return UndoResult(folder)
        original = original_index(disk)
        parts = patched_parts(form, disk, original.text)
        with explain_write_errors(folder):
            remove_patch(folder, parts, disk.receipt.link)
    restored = (folder / form.index,) if original.text != disk.index.text else ()
    return UndoResult(folder, (*(folder / name for name in parts.modules), folder / RECEIPT), restored)


def _target(options: PatchOptions) -> Path:
    return output_folder(Path(options.weights_dir), options.output)


def _plan(options: PatchOptions, target: Path) -> PatchPlan:
    folder, chosen = Path(options.weights_dir), Options.of(options)
    require_float_model(folder)
    form = format_of(folder, chosen.modeling)
    source_disk, disk = _disks(form, folder, target, options.force)
    index = original_index(source_disk)
    origins = form.origins(folder, index, chosen.modeling, source_disk.receipt)
    warnings = form.warnings(index)
    built = [form.build(folder, origin, chosen) for origin in origins]
    files = tuple(_change(made, form.module(index, made)) for made in built)
    _refuse_other_files(target, disk, files)
    edits = form.index_edits(index, zip(origins, (file.module for file in files)))
    index_after = apply(index.text, edits)
    receipt = Receipt(
        fa3cli=__version__,
        rules=RULES,
        library=form.library,
        version=form.version,
        options=chosen,
        files=files,
        index=Change.of(index.text, index_after, edits) if edits else None,
        link=_link(target / form.index, disk),
        rule_files={name: digest for made in built for name, digest in made.patched.rules.items()},
    )
    state, reason = state_of(disk, receipt)
    result = PatchResult(
        state,
        target,
        tuple(_patched(made, target / file.module) for made, file in zip(built, files)),
        target / form.index if receipt.index else None,
        form.library,
        form.version,
        chosen.quantizer,
        tuple(dict.fromkeys([*warnings, *(warning for made in built for warning in made.patched.warnings)])),
        reason,
        chosen.rules,
    )
    texts = tuple((made.text, made.patched.text) for made in built)
    return PatchPlan(form, result, texts, index.text, index_after, receipt, disk)


def _disks(form: Format, folder: Path, target: Path, force: bool) -> tuple[Disk, Disk | None]:
    """Inspect the folder and the target (None: not created yet); ConflictError if the target may not be patched."""
    source = look(form, folder)
    if target != folder and source.receipt:
        raise ConflictError(f"{folder} itself is patched", hint="undo that patch first, or omit --output")
    disk = source if target == folder else None if is_new(target) else look(form, target)
    for found in filter(None, (source, disk)):
        _refuse_conflicts(found, force)
    if disk is not None and target != folder:
        require_output_of(folder, target, disk.modules, form.index)
    return source, disk


def _refuse_conflicts(disk: Disk, force: bool) -> None:
    if disk.foreign:
        raise ConflictError(disk.foreign, hint="undo the other patch, or start from a fresh copy of the folder")
    if disk.edited and not force:
        raise ConflictError(f"{disk.folder}: {disk.edited}", hint="--force discards these changes")


def _refuse_other_files(target: Path, disk: Disk | None, files: Sequence[FileChange]) -> None:
    """Refuse to overwrite a file that fa3 did not write, or to write to the target of a link."""
    if disk is not None:
        refuse_links(target, files)
    own_files = disk.modules if disk else ()
    for file in files:
        if file.module not in own_files and os.path.lexists(target / file.module):
            raise ConflictError(f"{target / file.module} exists, and there is no {RECEIPT} of fa3")


def _change(made: Build, module: str) -> FileChange:
    change = Change.of(made.text, made.patched.text, made.patched.edits)
    return FileChange(made.origin.component, module, str(made.origin.path.absolute()), change)


def _patched(made: Build, module: Path) -> PatchedFile:
    origin = made.origin
    return PatchedFile(origin.component, module, origin.class_name, made.patched.attention, origin.kind, origin.path)


def _link(index: Path, disk: Disk | None) -> str | None:
    """Return the target of the index if it is a symbolic link, or was one before the patch; else None."""
    if index.is_symlink():
        return os.readlink(index)
    return disk.receipt.link if disk and disk.receipt else None
