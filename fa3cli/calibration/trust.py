"""Whose code is run: that of a folder only where it is known, or trusted."""

from __future__ import annotations

from pathlib import Path

from fa3cli import patching
from fa3cli.errors import ConflictError, InvalidInputError

__all__ = ["may_run_folder_code"]


def may_run_folder_code(folder: Path, status: patching.PatchStatus, *, fa: bool, trusted: bool) -> bool:
    """Decide whether the code in a folder of weights, or in a pipeline's, is run.

    Without being told to, only files that patching the installed library gives again, byte for byte. Raises
    InvalidInputError where `fa` asks for a patch that is not there, ConflictError where it is in doubt.
    """
    if fa and status.state == "unpatched":
        patching.attention_of(folder)  # raises where fa3 patch could not help
        raise InvalidInputError(
            f"{folder}: not patched, so q, k and v cannot be seen",
            hint=f"run fa3 patch {folder} (fa3 quantize --no-fa leaves q, k and v alone)",
        )
    if fa and status.module and not status.module.is_file():
        raise ConflictError(
            f"{status.module}: missing, though config.json names it", hint="run fa3 patch again"
        )
    if trusted or status.state == "unpatched" or status.reproducible:
        return trusted or fa
    if not fa:
        return False
    again = "run fa3 patch again (--force gives up changes made by hand), or "
    raise ConflictError(
        f"{status.module or folder}: {status.reason}",
        hint=again * (status.state in ("stale", "edited"))
        + "pass --trust-remote-code if you trust the code in the folder",
    )
