"""Keeps diffusers and transformers from telling what fa3's users need not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress of loading within the block, and no warnings: of classes that are not the library's own, say."""
    import diffusers
    import transformers

    libraries: list[ModuleType] = [diffusers.utils.logging, transformers.utils.logging]
    verbosity = [each.get_verbosity() for each in libraries]
    shown = [each for each in libraries if each.is_progress_bar_enabled()]
    for each in libraries:
        each.set_verbosity_error()
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each, before in zip(libraries, verbosity):
            each.set_verbosity(before)
        for each in shown:
            each.enable_progress_bar()
