"""Plan, write and undo the patch of a pipeline's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fa3cli import __version__
from fa3cli.errors import ConflictError
from fa3cli.patching.difference import difference
from fa3cli.patching.diffusion.build import Build, build, listed, origins
from fa3cli.patching.diffusion.folder import Disk, look, original_index, patched_parts, refuse_links
from fa3cli.patching.diffusion.index import INDEX, set_modules
from fa3cli.patching.diffusion.library import installed_diffusers
from fa3cli.patching.diffusion.receipt import FileChange, PipelineReceipt
from fa3cli.patching.diffusion.results import PatchedFile, PipelinePlan, PipelineResult
from fa3cli.patching.edits import apply
from fa3cli.patching.exchange import put_in, take_back
from fa3cli.patching.files import may_fail, writing_in
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.output import is_new, make_output, output_folder, require_output_of
from fa3cli.patching.receipt import RECEIPT, Change, Options, sha256
from fa3cli.patching.results import UndoResult
from fa3cli.patching.sources import RULES

__all__ = ["attention_of", "patch", "plan", "undo"]


def plan(
    folder: Path,
    *,
    attention: Sequence[str] = (),
    modeling: str | Path | None = None,
    output: str | Path | None = None,
    quantizer: str = "fa3cli",
    rules: str | Path | None = None,
    force: bool = False,
) -> PipelinePlan:
    """Work out the patch of a pipeline without writing anything; raises what `patch` would raise."""
    options = Options(tuple(attention), _absolute(modeling), quantizer, _absolute(rules))
    target = output_folder(folder, output)
    source_disk = look(folder)
    if target != folder and source_disk.receipt:
        raise ConflictError(f"{folder} is patched itself", hint="undo that first, or leave out --output")
    disk = source_disk if target == folder else None if is_new(target) else look(target)
    if disk is not None and target != folder:
        require_output_of(folder, target, [each.module for each in disk.receipt.files], INDEX)
    for each, where in ((source_disk, folder), (disk, target)):
        if each and each.edited and not force:
            raise ConflictError(f"{where}: {each.edited}", hint="--force gives up the changes")
    library, index = installed_diffusers(), original_index(source_disk)
    found = origins(library, folder, index, Path(options.modeling) if options.modeling else None)
    built = [build(library, each, options) for each in found]
    files = tuple(map(_change, built))
    if disk is not None:
        refuse_links(target, files)
    _refuse_strangers(target, disk, files)
    stems = {each.component: Path(each.module).stem for each in files if each.component}
    edits = set_modules(index, stems) if stems else []
    after = apply(index.text, edits) if index else None
    receipt = PipelineReceipt(
        fa3cli=__version__,
        rules=RULES,
        diffusers=library.version,
        options=options,
        files=files,
        index=Change(sha256(index.text.encode()), sha256(after.encode()), tuple(edits)) if edits else None,
        link=_link(target, disk),
        rule_files={name: digest for each in built for name, digest in each.patched.rules.items()},
    )
    state, reason = _state(target, disk, receipt)
    patched = tuple(
        PatchedFile(
            each.origin.component, target / file.module, each.origin.class_name, each.patched.attention,
            each.origin.kind, each.origin.path,
        )
        for each, file in zip(built, files)
    )  # fmt: skip
    warnings = tuple(dict.fromkeys(warning for each in built for warning in each.patched.warnings))
    result = PipelineResult(
        state, target, patched, library.version, quantizer, warnings, reason, options.rules
    )
    texts = tuple((each.text, each.patched.text) for each in built)
    return PipelinePlan(result, texts, index.text if index else None, after, receipt, disk)


def patch(folder: Path, *, force: bool = False, **options: object) -> PipelineResult:
    """Patch the transformers of a pipeline: write their files and model_index.json, or nothing at all.

    The options are those of `plan`.
    """
    target = output_folder(folder, options.get("output"))
    with writing_in(target):
        made = plan(folder, force=force, **options)
        if made.result.state == "already-patched":
            return made.result
        modules = {file.module: text for file, (_, text) in zip(made.receipt.files, made.texts)}
        index = {INDEX: made.index_after} if made.receipt.index else {}
        texts = {str(RECEIPT): made.receipt.to_json(), **modules, **index}
        contents = {name: text.encode() for name, text in texts.items()}
        with may_fail(target):
            if made.disk is None:
                make_output(folder, target, contents)
            else:
                put_in(target, patched_parts(target, made.disk, made.index_before), contents)
    return replace(made.result, state="patched")


def attention_of(
    folder: Path, *, modeling: str | Path | None = None, rules: str | Path | None = None
) -> tuple[AttentionClass, ...]:
    """Every attention class of the files a pipeline would be patched from, patchable or not."""
    library, given = installed_diffusers(), _absolute(modeling)
    found = origins(library, folder, original_index(look(folder)), Path(given) if given else None)
    return tuple(dict.fromkeys(each for origin in found for each in listed(library, origin, rules)))


def undo(folder: Path, *, force: bool = False) -> UndoResult:
    """Take a patch back: every byte of model_index.json as it was, and nothing left that fa3 added."""
    with writing_in(folder):
        disk = look(folder)
        if disk.edited and not force:
            raise ConflictError(f"{folder}: {disk.edited}", hint="--force gives up the changes")
        if disk.receipt is None:
            return UndoResult(folder)
        original = original_index(disk)
        parts = patched_parts(folder, disk, original.text if original else None)
        with may_fail(folder):
            take_back(folder, parts, disk.receipt.link)
    restored = (folder / INDEX,) if original and original.text != disk.index.text else ()
    return UndoResult(folder, (*(folder / name for name in parts.modules), folder / RECEIPT), restored)


def _change(made: Build) -> FileChange:
    """What the receipt says of a file. Local files share one namespace in diffusers, so their names tell them apart."""
    origin, patched = made.origin, made.patched
    digest = sha256(patched.text.encode())
    name = f"{origin.path.stem}_fa3_{digest[:12]}.py"
    module = f"{origin.component}/{name}" if origin.component else name
    change = Change(sha256(made.text.encode()), digest, patched.edits)
    return FileChange(origin.component, module, str(origin.path.absolute()), change)


def _refuse_strangers(target: Path, disk: Disk | None, files: tuple[FileChange, ...]) -> None:
    """A file that would be written over, and isn't fa3's."""
    ours = {each.module for each in disk.receipt.files} if disk and disk.receipt else set()
    for each in files:
        path = target / each.module
        if each.module not in ours and os.path.lexists(path):
            raise ConflictError(f"{path} exists, and there is no {RECEIPT} of fa3")


def _state(target: Path, disk: Disk | None, receipt: PipelineReceipt) -> tuple[str, str | None]:
    """The state of the target, and what keeps it from being what would be written."""
    if disk is None or disk.receipt is None:
        return "would-patch", None
    if disk.edited:
        return "edited", disk.edited
    old = disk.receipt
    for each in old.files:
        if disk.modules[each.module] is None:
            return "stale", f"{target / each.module} is missing"
    if old.index and sha256(disk.index.text.encode()) != old.index.after:
        return "stale", "an earlier run was cut off before it had written everything"
    written = [(each.component, each.modeling.after) for each in old.files]
    if (
        written == [(each.component, each.modeling.after) for each in receipt.files]
        and old.index == receipt.index
    ):
        return "already-patched", None
    return "stale", _difference(old, receipt)


def _difference(old: PipelineReceipt, new: PipelineReceipt) -> str:
    """What a patch was made of, and what it would be made of now."""
    if found := difference(old, new, "diffusers"):
        return found
    before = {each.component: each.modeling.before for each in old.files}
    for each in new.files:
        if before.get(each.component) != each.modeling.before:
            return f"its source {each.source} has changed"
    return f"another fa3 wrote it: {old.fa3cli}, this is {new.fa3cli}; or a file it takes classes from has changed"


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _link(target: Path, disk: Disk | None) -> str | None:
    """What model_index.json links to, or did before it was patched."""
    path = target / INDEX
    if path.is_symlink():
        return os.readlink(path)
    return disk.receipt.link if disk and disk.receipt else None
