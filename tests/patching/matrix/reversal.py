"""Checks that the patch of every modeling file can be reversed exactly, without running the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import ConflictError, Fa3Error
from fa3cli.patching.edits import reverse
from fa3cli.patching.sources import PatchedSource, patch_source
from tests.patching.matrix.environments import ROOT

__all__ = ["Files", "check_files", "modeling_files"]


@dataclass(frozen=True)
class Files:
    """The number of modeling files, of patched ones, and the faults by file."""

    seen: int
    patched: int
    wrong: tuple[str, ...] = ()


def modeling_files(version: str) -> list[Path]:
    """Every modeling file of a transformers version that has an environment here."""
    models = next((ROOT / ".venvs" / version / "lib").glob("python3*/site-packages/transformers/models"))
    files = sorted(models.rglob("modeling_*.py"))
    return [path for path in files if "_tf_" not in path.name and "_flax_" not in path.name]


def check_files(files: Sequence[Path]) -> Files:
    """Patch every file with the attention that fa3 chooses, and reverse the patch."""
    patched, wrong = 0, []
    for path in files:
        package = ".".join(path.parent.parts[path.parts.index("site-packages") + 1 :])
        data, name = path.read_bytes(), path.name
        try:
            whole = patch_source(data, name=name, package=package)
            # If the file keeps its own imports, most patches consist of inserted lines only.
            own = patch_source(data, name=name, package=None)
        except Fa3Error as error:
            wrong += [] if str(error).startswith(name) else [f"{name}: refused without a place: {error}"]
            continue
        patched += 1
        wrong += [f"{name}: {fault}" for fault in _wrong(data.decode(), name, whole, own)]
    return Files(len(files), patched, tuple(wrong))


def _wrong(text: str, name: str, whole: PatchedSource, own: PatchedSource) -> Iterator[str]:
    for patched in (whole, own):
        compile(patched.text, name, "exec")
        if reverse(patched.text, patched.edits) != text:
            yield "reversing the edits doesn't give the source"
    lines = [edit.offset for edit in own.edits if not edit.removed and edit.inserted.endswith(("\n", "\r"))]
    if len(lines) == len(own.edits) and _without_inserted_lines(own) != text:
        yield "deleting the inserted lines doesn't give the source"
    try:
        patch_source(whole.text, name=name)
    except ConflictError:
        return
    yield "it can be patched twice"


def _without_inserted_lines(patched: PatchedSource) -> str:
    """The patched text without the lines that edits inserted."""
    inserted, moved = set(), 0
    for edit in patched.edits:
        first = patched.text.count("\n", 0, edit.offset + moved)
        inserted |= set(range(first, first + edit.inserted.count("\n")))
        moved += len(edit.inserted)
    return "\n".join(line for number, line in enumerate(patched.text.split("\n")) if number not in inserted)
