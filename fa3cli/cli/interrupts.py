"""Handles Ctrl-C: after the first one, a run finishes its current layer or step; the second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["first_interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def first_interrupt(tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells if SIGINT or SIGTERM came; `tell` gets one message. The next signal interrupts."""
    interrupted = False

    def note_first(_: int, __: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        tell("stopping at the next point from which the run can resume; Ctrl-C again stops at once")

    before = {number: signal.signal(number, note_first) for number in _SIGNALS}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
