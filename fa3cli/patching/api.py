"""Plan, write and undo the patch of a weights folder; a pipeline of diffusers goes on to `diffusion`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fa3cli import __version__
from fa3cli.errors import ConflictError
from fa3cli.patching.build import build
from fa3cli.patching.config_json import set_auto_map
from fa3cli.patching.difference import difference
from fa3cli.patching.diffusion import api as diffusion
from fa3cli.patching.diffusion.folder import is_pipeline
from fa3cli.patching.diffusion.results import PipelinePlan, PipelineResult
from fa3cli.patching.edits import apply
from fa3cli.patching.exchange import put_in, take_back
from fa3cli.patching.files import may_fail, writing_in
from fa3cli.patching.folder import CONFIG, Disk, look, module_name, original_config, patched_parts
from fa3cli.patching.installed import installed_transformers
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origin import find_origin, read_source
from fa3cli.patching.output import is_new, make_output, output_folder, require_output_of
from fa3cli.patching.preconditions import check_config
from fa3cli.patching.receipt import RECEIPT, Change, Options, Receipt, sha256
from fa3cli.patching.results import PatchPlan, PatchResult, UndoResult
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.sources import RULES, list_source

__all__ = ["attention_of", "patch", "plan", "undo"]


def plan(
    folder: str | Path,
    *,
    attention: Sequence[str] = (),
    modeling: str | Path | None = None,
    output: str | Path | None = None,
    quantizer: str = "fa3cli",
    rules: str | Path | None = None,
    force: bool = False,
) -> PatchPlan | PipelinePlan:
    """Work out a patch without writing anything; raises what `patch` would raise."""
    folder = Path(folder)
    if is_pipeline(folder, modeling):
        return diffusion.plan(
            folder,
            attention=attention,
            modeling=modeling,
            output=output,
            quantizer=quantizer,
            rules=rules,
            force=force,
        )
    options = Options(tuple(attention), _absolute(modeling), quantizer, _absolute(rules))
    target = output_folder(folder, output)
    source_disk = look(folder)
    if target != folder and source_disk.receipt:
        raise ConflictError(f"{folder} is patched itself", hint="undo that first, or leave out --output")
    disk = source_disk if target == folder else None if is_new(target) else look(target)
    for found in filter(None, (source_disk, disk)):
        _refuse_conflicts(found, force)
    if disk is not None and target != folder:
        require_output_of(folder, target, [disk.receipt.module], CONFIG)
    config, installed = original_config(source_disk), installed_transformers()
    warnings = check_config(config, installed)
    made = build(installed, config, options)
    origin, module = made.origin, module_name(config.model_type)
    edits = set_auto_map(config, f"{module.removesuffix('.py')}.{origin.class_name}")
    config_after = apply(config.text, edits)
    receipt = Receipt(
        fa3cli=__version__,
        rules=RULES,
        transformers=installed.version,
        options=options,
        source=str(origin.path.absolute()),
        module=module,
        modeling=Change(sha256(made.data), sha256(made.patched.text.encode()), made.patched.edits),
        config=Change(sha256(config.text.encode()), sha256(config_after.encode()), tuple(edits)),
        auto_map_before=config.data.get("auto_map"),
        link=_link(target, disk),
        rule_files=made.patched.rules,
    )
    state, reason = _state(target, disk, receipt)
    result = PatchResult(
        state, target, target / module, origin.class_name, made.patched.attention, origin.kind, origin.path,
        installed.version, quantizer, (*warnings, *made.patched.warnings), reason, options.rules,
    )  # fmt: skip
    return PatchPlan(result, made.data.decode(), made.patched.text, config.text, config_after, receipt, disk)


def patch(
    folder: str | Path,
    *,
    attention: Sequence[str] = (),
    modeling: str | Path | None = None,
    output: str | Path | None = None,
    quantizer: str = "fa3cli",
    rules: str | Path | None = None,
    force: bool = False,
) -> PatchResult | PipelineResult:
    """Patch a weights folder: write the modeling file and config.json's auto_map, or nothing at all.

    Of a pipeline of diffusers, the files of its transformers and model_index.json.

    `attention` names classes (none: the one the architecture is built of), `modeling` a modeling file other than
    the installed transformers' own, `output` a folder to make instead of changing this one, `quantizer` whose
    FAQuantizer to import (fa3cli or msmodelslim), `rules` a folder of the user's own rules. `force` replaces a patch
    that was changed by hand.
    """
    if is_pipeline(folder, modeling):
        return diffusion.patch(
            Path(folder),
            attention=attention,
            modeling=modeling,
            output=output,
            quantizer=quantizer,
            rules=rules,
            force=force,
        )
    folder, target = Path(folder), output_folder(Path(folder), output)
    with writing_in(target):
        made = plan(
            folder,
            attention=attention,
            modeling=modeling,
            output=output,
            quantizer=quantizer,
            rules=rules,
            force=force,
        )
        if made.result.state == "already-patched":
            return made.result
        contents = {
            str(RECEIPT): made.receipt.to_json().encode(),
            made.receipt.module: made.patched_text.encode(),
            CONFIG: made.config_after.encode(),
        }
        with may_fail(target):
            if made.disk is None:
                make_output(folder, target, contents)
            else:
                put_in(target, patched_parts(made.disk, made.config_before), contents)
    return replace(made.result, state="patched")


def attention_of(
    folder: str | Path, *, modeling: str | Path | None = None, rules: str | Path | None = None
) -> tuple[AttentionClass, ...]:
    """Every attention class of the modeling file a folder would be patched from, patchable or not."""
    if is_pipeline(folder, modeling):
        return diffusion.attention_of(Path(folder), modeling=modeling, rules=rules)
    config = original_config(look(Path(folder)))
    path = find_origin(installed_transformers(), config, Path(modeling) if modeling else None).path
    return list_source(read_source(path), name=str(path), rules=checked_rules(rules), config=config.data)


def undo(folder: str | Path, *, force: bool = False) -> UndoResult:
    """Take a patch back: every byte of config.json as it was, and nothing left that fa3 added.

    ConflictError if the folder's patch isn't fa3's, or was changed by hand and `force` isn't given.
    """
    folder = Path(folder)
    if is_pipeline(folder):
        return diffusion.undo(folder, force=force)
    with writing_in(folder):
        disk = look(folder)
        _refuse_conflicts(disk, force)
        if disk.receipt is None:
            return UndoResult(folder)
        receipt, original = disk.receipt, original_config(disk)
        with may_fail(folder):
            take_back(folder, patched_parts(disk, original.text), receipt.link)
    restored = (folder / CONFIG,) if original.text != disk.config.text else ()
    return UndoResult(folder, (folder / receipt.module, folder / RECEIPT), restored)


def _refuse_conflicts(disk: Disk, force: bool) -> None:
    if disk.foreign:
        raise ConflictError(
            disk.foreign, hint="take the other patch back, or start from a fresh copy of the folder"
        )
    if disk.edited and not force:
        raise ConflictError(f"{disk.config.path.parent}: {disk.edited}", hint="--force gives up the changes")


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _link(target: Path, disk: Disk | None) -> str | None:
    """What config.json links to, or did before it was patched."""
    path = target / "config.json"
    if path.is_symlink():
        return os.readlink(path)
    return disk.receipt.link if disk and disk.receipt else None


def _state(target: Path, disk: Disk | None, receipt: Receipt) -> tuple[str, str | None]:
    """The state of the target, and what keeps it from being what would be written."""
    if disk is None or disk.receipt is None:
        return "would-patch", None
    if disk.edited:
        return "edited", disk.edited
    module, old = target / receipt.module, disk.receipt
    if disk.module is None:
        return "stale", f"{module} is missing"
    if sha256(disk.config.text.encode()) != old.config.after:
        return "stale", "an earlier run was cut off before it had written everything"
    if old.modeling.after == receipt.modeling.after and old.config == receipt.config:
        return "already-patched", None
    return "stale", _difference(old, receipt)


def _difference(old: Receipt, new: Receipt) -> str:
    """What a patch was made of, and what it would be made of now."""
    if found := difference(old, new, "transformers"):
        return found
    if old.modeling.before != new.modeling.before:
        return f"its source {new.source} has changed"
    return f"another fa3 wrote it: {old.fa3cli}, this is {new.fa3cli}"
