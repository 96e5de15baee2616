"""Memory that was freed, given back to the system before it adds up."""

from __future__ import annotations

import ctypes

import psutil

__all__ = ["FreedMemory"]

_LEAST_SLACK = 3 << 20


class FreedMemory:
    """Returns freed heap to the system: at once, or when the process keeps more and more of it.

    glibc keeps what long-lived tensors fragment, more with every layer. Trimming after each sample would cost a tenth
    of the run in page faults, since the next one needs as much again: so the first look after a trim says how much
    that is, and an eighth of a layer more is what may add up. Other C libraries are left alone.
    """

    def __init__(self, layer_bytes: int) -> None:
        self._slack = max(_LEAST_SLACK, layer_bytes // 8)
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._process = psutil.Process()
        self._usual: int | None = None

    def release(self) -> None:
        """Give back what is free."""
        if self._trim is not None:
            self._trim(0)
        self._usual = None

    def release_if_grown(self) -> None:
        """Give back what is free if there may be much of it."""
        memory = self._process.memory_info()
        resident = memory.rss - getattr(
            memory, "shared", 0
        )  # pages of mapped files come and go by themselves
        if self._usual is None:
            self._usual = resident
        elif resident > self._usual + self._slack:
            self.release()
