"""Writing into a weights folder: whole files or none, never through a symbolic link."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fa3cli.errors import ConflictError, MissingCapabilityError

__all__ = ["folder_mode", "link_folder", "make_link", "may_fail", "remove", "write"]


@contextmanager
def may_fail(folder: Path) -> Iterator[None]:
    """Turn what the system says about writing into an error with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingCapabilityError(
                f"no room to write in {folder}", hint="free some, or use --output"
            ) from None
        raise ConflictError(
            f"cannot write in {folder}: {error.strerror} ({error.filename})",
            hint="--output DIR leaves the folder as it is and makes a patched one of links to it",
        ) from None


def write(path: Path, data: bytes) -> None:
    """Replace `path` (the link itself if it is one) by a file with `data`, all at once."""
    path.parent.mkdir(exist_ok=True)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner only.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        if temporary:
            os.unlink(temporary)
        _remove_if_empty(path.parent)
        raise


def make_link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link to `target`, all at once."""
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Remove a file if it is there, and its folder if that is called .fa3 and empty now."""
    path.unlink(missing_ok=True)
    _remove_if_empty(path.parent)


def link_folder(source: Path, output: Path, config: bytes) -> None:
    """Make `output` a folder of links to everything in `source`, with a config.json of its own; all or nothing."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        os.chmod(temporary, folder_mode())
        for entry in sorted(source.iterdir()):
            if entry.name != "config.json" and entry not in (temporary, output):
                (temporary / entry.name).symlink_to(entry.absolute())
        write(temporary / "config.json", config)
        os.replace(temporary, output)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def folder_mode() -> int:
    """The mode a new folder gets, which mkdtemp doesn't give."""
    return 0o777 & ~_umask()


def _remove_if_empty(folder: Path) -> None:
    if folder.name == ".fa3" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
