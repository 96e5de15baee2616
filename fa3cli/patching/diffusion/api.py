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
from fa3cli.patching.diffusion.folder import Disk, look, original_index
from fa3cli.patching.diffusion.index import INDEX, set_modules
from fa3cli.patching.diffusion.library import installed_diffusers
from fa3cli.patching.diffusion.output import make_output
from fa3cli.patching.diffusion.receipt import FileChange, PipelineReceipt
from fa3cli.patching.diffusion.results import PatchedFile, PipelinePlan, PipelineResult
from fa3cli.patching.edits import apply
from fa3cli.patching.files import make_link, may_fail, remove, write
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.output import output_folder
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
    target = output_folder(folder, output, mends=False)
    source_disk = look(folder)
    if target != folder and source_disk.receipt:
        raise ConflictError(f"{folder} is patched itself", hint="undo that first, or leave out --output")
    disk = source_disk if target == folder else look(target) if (target / RECEIPT).exists() else None
    for each, where in ((source_disk, folder), (disk, target)):
        if each and each.edited and not force:
            raise ConflictError(f"{where}: {each.edited}", hint="--force gives up the changes")
    library, index = installed_diffusers(), original_index(source_disk)
    found = origins(library, folder, index, Path(options.modeling) if options.modeling else None)
    built = [build(library, each, options) for each in found]
    files = tuple(map(_change, built))
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
    made = plan(folder, force=force, **options)
    target = made.result.folder
    if made.result.state == "already-patched":
        return made.result
    contents = {str(RECEIPT): made.receipt.to_json()}
    contents |= {file.module: text for file, (_, text) in zip(made.receipt.files, made.texts)}
    contents |= {INDEX: made.index_after} if made.receipt.index else {}
    with may_fail(target):
        if made.disk and made.disk.receipt:
            undo(target, force=force)
        if target != folder and not (target / INDEX).exists():
            make_output(folder, target, contents)
            return replace(made.result, state="patched")
        try:
            # The receipt first: it explains every state a crash between the writes can leave.
            for name, text in contents.items():
                write(target / name, text.encode())
        except OSError:
            undo(target)
            raise
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
    disk = look(folder)
    if disk.edited and not force:
        raise ConflictError(f"{folder}: {disk.edited}", hint="--force gives up the changes")
    if disk.receipt is None:
        return UndoResult(folder)
    receipt, path, restored = disk.receipt, folder / INDEX, ()
    index = original_index(disk)
    with may_fail(folder):
        if index and index.text != disk.index.text:
            restored = (path,)
            old = folder / receipt.link if receipt.link else None
            if old and old.is_file() and old.read_bytes() == index.text.encode():
                make_link(path, receipt.link)
            else:
                write(path, index.text.encode())
        removed = [folder / each.module for each in receipt.files] + [folder / RECEIPT]
        for each in removed:
            remove(each)
    return UndoResult(folder, tuple(removed), restored)


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
        if each.module not in ours and (path.exists() or path.is_symlink()):
            raise ConflictError(f"{path} exists, and there is no {RECEIPT} of fa3")


def _state(target: Path, disk: Disk | None, receipt: PipelineReceipt) -> tuple[str, str | None]:
    """The state of the target, and what keeps it from being what would be written."""
    if disk is None or disk.receipt is None:
        return "would-patch", None
    if disk.edited:
        return "edited", disk.edited
    old = disk.receipt
    for each in old.files:
        if not (target / each.module).exists():
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
