"""The folder `--output` names: a whole folder of links to the weights, but for what is patched."""

from __future__ import annotations

from pathlib import Path

from fa3cli.errors import ConflictError
from fa3cli.patching.files import link_folder, write
from fa3cli.patching.receipt import RECEIPT

__all__ = ["make_output", "output_folder"]


def output_folder(folder: Path, output: str | Path | None, *, mends: bool = True) -> Path:
    """The folder to patch; refuses an output folder that isn't new, empty, or made by us.

    One that `make_output` was cut off in is taken too, if the caller `mends` it.
    """
    if output is None or Path(output).resolve() == folder.resolve():
        return folder
    target = Path(output)
    if target.exists() and not target.is_dir():
        raise ConflictError(f"{target} is not a folder")
    if not target.exists() or not any(target.iterdir()) or (target / RECEIPT).exists():
        return target
    if mends and _was_cut_off(folder, target):
        return target
    raise ConflictError(
        f"{target} already holds something else", hint="give a new or empty folder to --output"
    )


def make_output(folder: Path, target: Path, config: bytes) -> None:
    """Make the output folder, or mend what an earlier run left of it."""
    if not target.exists() or not any(target.iterdir()):
        link_folder(folder, target, config)
    else:
        write(target / "config.json", config)


def _was_cut_off(folder: Path, target: Path) -> bool:
    """Whether a folder is what a run that was cut off leaves: links to all there is, and a config.json."""
    links = {entry.name for entry in target.iterdir() if entry.is_symlink()}
    own = {entry.name for entry in target.iterdir()} - links
    return own == {"config.json"} and {entry.name for entry in folder.iterdir()} <= links | own
