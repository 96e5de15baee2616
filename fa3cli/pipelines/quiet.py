"""Suppresses output of diffusers and transformers that fa3's users do not need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress bars and no warnings within the block, for example about classes outside the library."""
    import diffusers
    import transformers

    libraries: list[ModuleType] = [diffusers.utils.logging, transformers.utils.logging]
    verbosity = [library.get_verbosity() for library in libraries]
    # Only bars that are enabled now: bars that the user has disabled stay disabled.
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in libraries:
        library.set_verbosity_error()
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, before in zip(libraries, verbosity):
            library.set_verbosity(before)
        for library in shown:
            library.enable_progress_bar()
