"""Decides whether a folder's code may run: only if it is known or trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fa3cli import patching
from fa3cli.errors import ConflictError, InvalidInputError

__all__ = ["require_known_code", "trust_hint", "without_trust_prompt"]

_TRUST = "pass --trust-remote-code if you trust the code in the folder"


def require_known_code(
    folder: Path, status: patching.PatchStatus, *, fa: bool, trusted: bool, without_fa: str = ""
) -> None:
    """Raise if the patched code of a weights folder or pipeline is needed, but neither known nor trusted.

    Code is known if patching the installed library produces it again. Raises InvalidInputError if
    `fa` needs a patch and there is none, ConflictError if the patch is not reproducible. `without_fa` says in the hint how to
    do without a patch, if the caller can.
    """
    if not fa:
        return
    if status.state == "unpatched":
        patching.attention_of(folder)  # raises if fa3 patch could not patch this folder
        raise InvalidInputError(
            f"{folder}: not patched, so q, k and v cannot be observed",
            hint=f"run fa3 patch {folder}" + (f" (or {without_fa})" if without_fa else ""),
        )
    if status.module and not status.module.is_file():
        raise ConflictError(f"{status.module}: missing, though config.json names it", hint="run fa3 patch again")
    if not (trusted or status.reproducible):
        again = "run fa3 patch again (--force discards changes made by hand), or "
        hint = again * (status.state in ("stale", "edited")) + _TRUST
        if status.state == "hand-patched":
            hint = f"run fa3 patch {folder}: it writes its own patch, or says which line is wrong"
        raise ConflictError(f"{status.module or folder}: {status.reason}", hint=hint)


def trust_hint(error: Exception) -> str | None:
    """Return a hint if transformers raised an error because it may not run the folder's code."""
    return _TRUST if "trust_remote_code" in str(error) else None


@contextmanager
def without_trust_prompt() -> Iterator[None]:
    """Make transformers refuse untrusted code within the block, where it would otherwise ask on the terminal."""
    from transformers import dynamic_module_utils

    # transformers asks only if its timeout is above 0; at 0 it raises an error at once.
    before, dynamic_module_utils.TIME_OUT_REMOTE_CODE = dynamic_module_utils.TIME_OUT_REMOTE_CODE, 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before
