"""Memory that was freed, given back to the system before it adds up."""

from __future__ import annotations

import ctypes
import mmap

import psutil
import torch
from torch import Tensor

__all__ = ["FreedMemory", "in_own_memory"]

_LEAST_SLACK = 3 << 20
_WORTH_A_MAPPING = 1 << 17


def in_own_memory(tensor: Tensor) -> Tensor:
    """Return a tensor of the CPU in pages of its own, which go back to the system with it.

    What is to live long between tensors that come and go would leave the heap full of holes.
    """
    if tensor.device.type != "cpu" or tensor.nbytes < _WORTH_A_MAPPING:
        return tensor
    own = torch.frombuffer(mmap.mmap(-1, tensor.nbytes), dtype=tensor.dtype)
    return own.view(tensor.shape).copy_(tensor)


class FreedMemory:
    """Returns freed heap to the system: at once, or when the process keeps more and more of it.

    glibc keeps what long-lived tensors fragment, more with every layer. Trimming after each sample would cost a tenth
    of the run in page faults, since the next one needs as much again: so the first look after a trim says how much
    that is, and a sixteenth of a layer more is what may add up. Other C libraries are left alone.
    """

    def __init__(self, layer_bytes: int) -> None:
        self._slack = max(_LEAST_SLACK, layer_bytes // 16)
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
