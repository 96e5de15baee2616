"""Creates the folder of `--output`: links to all files of the weights folder, except for the patched files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from fa3cli.errors import ConflictError
from fa3cli.files.locking import is_temporary
from fa3cli.files.writing import new_folder, write_file
from fa3cli.patching.folders.receipt import RECEIPT

__all__ = ["is_new", "make_output", "output_folder", "require_output_of"]

_FA3_FOLDER = RECEIPT.parts[0]
_HINT = "give a new or empty folder to --output"


def output_folder(folder: Path, output: str | Path | None) -> Path:
    """Return the folder to patch; refuses an output folder that is not new, empty, or patched by fa3."""
    if output is None or Path(output).resolve() == folder.resolve():
        return folder
    target = Path(output)
    if os.path.lexists(target) and not target.is_dir():
        raise ConflictError(f"{target} is not a folder", hint=_HINT)
    if not is_new(target) and not os.path.lexists(target / RECEIPT):
        raise ConflictError(f"{target} already holds something else", hint=_HINT)
    return target


def is_new(target: Path) -> bool:
    """Tell whether a folder is missing or empty."""
    try:
        return not os.path.lexists(target) or not any(target.iterdir())
    except OSError:
        return False


def require_output_of(folder: Path, target: Path, modules: Collection[str], index: str) -> None:
    """Refuse a patched target that --output did not make from `folder`: it holds another model, or a copy of it."""
    parts = {PurePosixPath(name).parent for name in modules}
    own = {*map(PurePosixPath, modules), *parts, PurePosixPath(_FA3_FOLDER), PurePosixPath(index)}
    names = [name for part in sorted({PurePosixPath("."), *parts}) for name in _names(folder, part, target)]
    shared = [name for name in names if name not in own and os.path.lexists(target / name)]
    different = [name for name in shared if os.path.realpath(target / name) != os.path.realpath(folder / name)]
    if different or (not shared and set(names) - own):
        found = f": {target / different[0]} is not the same file as in {folder}" if different else ""
        raise ConflictError(f"{target} is patched, but was not made from {folder}{found}", hint=_HINT)


def make_output(folder: Path, target: Path, contents: Mapping[str, bytes]) -> None:
    """Create `target` with links to everything in `folder` and with the files `contents`, completely or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    own = {PurePosixPath(name) for name in contents}
    parts = {part for name in own for part in name.parents}
    with new_folder(target) as temporary:
        for part in sorted(parts):
            (temporary / part).mkdir(exist_ok=True)
            for name in _names(folder, part, target, temporary):
                if part.name != _FA3_FOLDER and name not in own and name not in parts:
                    (temporary / name).symlink_to((folder / name).absolute())
        for file, data in contents.items():
            write_file(temporary / file, data)


def _names(folder: Path, part: PurePosixPath, *never: Path) -> Iterator[PurePosixPath]:
    """Yield the entries of a subfolder as paths in the folder, without `never` and without half-written files."""
    place, left_out = folder / part, [path.absolute() for path in never]
    for entry in sorted(place.iterdir()) if place.is_dir() else []:
        if entry.absolute() not in left_out and not is_temporary(entry.name):
            yield part / entry.name
