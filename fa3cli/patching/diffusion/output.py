"""The folder `--output` names for a pipeline: links to all of it, but for what is patched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fa3cli.patching.files import folder_mode, write
from fa3cli.patching.receipt import RECEIPT

__all__ = ["make_output"]


def make_output(folder: Path, target: Path, contents: Mapping[str, str]) -> None:
    """Make `target` a folder of links to everything in `folder`, with files of its own, by path; all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    own = [PurePosixPath(name).parts for name in contents]
    try:
        os.chmod(temporary, folder_mode())
        _link_entries(folder, temporary, {parts[0] for parts in own}, (temporary, target))
        for part in {parts[0] for parts in own if len(parts) > 1 and parts[0] != RECEIPT.parts[0]}:
            (temporary / part).mkdir()
            _link_entries(
                folder / part, temporary / part, {parts[1] for parts in own if parts[0] == part}, ()
            )
        for name, text in contents.items():
            write(temporary / name, text.encode())
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def _link_entries(source: Path, target: Path, without: set[str], never: tuple[Path, ...]) -> None:
    for entry in sorted(source.iterdir()) if source.is_dir() else []:
        if entry.name not in without and entry not in never:
            (target / entry.name).symlink_to(entry.absolute())
