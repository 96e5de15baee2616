"""Defines `fa3 patch`, which does or undoes steps 1 to 4 of the guide."""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fa3cli.cli.console import note, print_error, print_json, warn
from fa3cli.cli.options import Json, with_options
from fa3cli.errors import ConflictError, UsageError
from fa3cli.patch_options import PatchOptions

if TYPE_CHECKING:
    from fa3cli.patching import AttentionClass, PatchedFile, PatchPlan, PatchResult, UndoResult

__all__ = ["patch"]


@with_options(PatchOptions)
def patch(
    options: PatchOptions,
    *,
    list_: Annotated[bool, typer.Option("--list", help="List the file's attention classes.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 0 if patched and up to date, else 1.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Print what would change.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the patch.")] = False,
    json: Json = False,
) -> None:
    """Patch a model's modeling file, beside its weights, so that q, k and v can be quantized."""
    from fa3cli.patching import folder_patch

    if sum((list_, check, diff, undo)) > 1:
        raise UsageError("--list, --check, --diff and --undo exclude one another")
    if undo:
        return _show_undo(folder_patch.undo(options.output or options.weights_dir, force=options.force), json)
    if list_:
        found = folder_patch.attention_of(options.weights_dir, modeling=options.modeling, rules=options.rules)
        return _show_classes(found, json)
    if check:
        return _check(replace(options, force=False), json)
    if diff:
        return _show_diff(folder_patch.plan(options), json)
    return _show(folder_patch.patch(options), json)


def _show(result: PatchResult, json: bool) -> None:
    for warning in result.warnings:
        warn(warning)
    if json:
        return print_json(result)
    if result.state == "already-patched":
        modules = ", ".join(str(file.module) for file in result.files)
        return note(f"{modules}: patched already, nothing to do")
    for file in result.files:
        _show_file(file, f"{result.library} {result.version}")
    note(_next_step(result))


def _show_file(file: PatchedFile, library: str) -> None:
    origin = {"installed": library, "folder": "came with the weights"}.get(file.origin, "--modeling")
    note(f"{file.component or 'source'}: {file.source} ({origin})")
    for found in file.attention:
        note(f"{found.name}: {', '.join(found.states or ())} {_place(found)}")
    note(f"wrote {file.module}")


def _next_step(result: PatchResult) -> str:
    if result.index is None:
        return "no index names this file: use it instead of its source file"
    named = f"{result.index} names the written files; next: "
    if result.quantizer != "fa3cli":
        return f"{named}load with trust_remote_code=True"
    trust = " --trust-remote-code" * (bool(result.rules) or any(file.origin != "installed" for file in result.files))
    prompts = " --prompts FILE" * (result.library == "diffusers")
    return f"{named}fa3 quantize {result.folder}{prompts}{trust}"


def _show_undo(result: UndoResult, json: bool) -> None:
    if json:
        return print_json(result)
    for path in result.restored:
        note(f"restored {path}")
    for path in result.removed:
        note(f"removed {path}")
    if not result.removed:
        note(f"{result.folder} is not patched, nothing to undo")


def _show_classes(classes: tuple[AttentionClass, ...], json: bool) -> None:
    if json:
        return print_json({"attention": [vars(found) for found in classes]})
    if not classes:
        note("fa3 found no attention class; a rule can name one (docs/patch-rules.md)")
    for found in classes:
        verdict = "needs no patch" if found.idle else "cannot be patched"
        states = ", ".join(found.states) if found.states else f"{verdict}: {found.problem}"
        place = f" ({_place(found)})" if found.place else ""
        print(f"{found.line:5} {found.name:32} {states}{place}" + (f" [{found.rule}]" if found.rule else ""))


def _place(found: AttentionClass) -> str:
    file_text = f" of {Path(found.file).name}" if found.file else ""
    return f"{'from' if found.inside else 'below'} line {found.place}{file_text}"


def _check(options: PatchOptions, json: bool) -> None:
    from fa3cli.patching.folder_patch import plan

    try:
        result = plan(options).result
    except ConflictError as error:
        if json:
            print_json({"state": "conflict", "reason": str(error)})
        print_error(error)
        sys.exit(1)
    if json:
        print_json(result)
    done = result.state == "already-patched"
    reason = f" ({result.reason})" if result.reason else ""
    note(f"{result.folder}: {'patched and up to date' if done else result.state + reason}")
    sys.exit(0 if done else 1)


def _show_diff(plan: PatchPlan, json: bool) -> None:
    diff = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for before, after, old, new in _changes(plan)
        for line in difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), str(before), str(after)
        )
    )
    if json:
        print_json({"diff": diff})
    else:
        sys.stdout.write(diff)


def _changes(plan: PatchPlan) -> list[tuple[Path, Path, str, str]]:
    """Return the paths and texts of all changed files, before and after the patch."""
    result = plan.result
    files = [(file.source, file.module, *texts) for file, texts in zip(result.files, plan.texts)]
    index = [(result.index, result.index, plan.index_before, plan.index_after)] if result.index else []
    return files + index
