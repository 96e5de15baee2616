"""Memory that was freed, given back to the system before it adds up."""

from __future__ import annotations

import ctypes

import psutil

__all__ = ["FreedMemory"]

_SLACK = 3 << 20


class FreedMemory:
    """Returns freed heap to the system: at once, or when the process has grown by 3 MB since it last did.

    glibc keeps what long-lived tensors fragment, more with every layer. Trimming after each sample would cost
    a tenth of the run in page faults; doing it by growth costs next to nothing. Other C libraries are left alone.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._process = psutil.Process()
        self._floor = 0

    def release(self) -> None:
        """Give back what is free."""
        if self._trim is not None:
            self._trim(0)
        self._floor = self._resident()

    def release_if_grown(self) -> None:
        """Give back what is free if there may be much of it."""
        if self._resident() > self._floor + _SLACK:
            self.release()

    def _resident(self) -> int:
        return self._process.memory_info().rss
