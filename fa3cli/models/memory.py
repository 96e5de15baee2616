"""Returns freed memory to the system before it accumulates."""

from __future__ import annotations

import ctypes
import mmap

import psutil  # type: ignore[import-untyped]  # psutil has no types
import torch
from torch import Tensor

__all__ = ["FreedMemory", "in_own_memory"]

_LEAST_SLACK = 3 << 20
_SMALLEST_MAPPED = 1 << 17  # glibc's default M_MMAP_THRESHOLD, which glibc raises while a program runs


def in_own_memory(tensor: Tensor) -> Tensor:
    """Return a copy of a CPU tensor in its own memory mapping, which the system gets back when the tensor is freed.

    Long-lived tensors between short-lived ones would fragment the heap.
    """
    if tensor.device.type != "cpu" or tensor.nbytes < _SMALLEST_MAPPED:
        return tensor
    # The tensor keeps the mapping alive: both are freed together.
    own = torch.frombuffer(mmap.mmap(-1, tensor.nbytes), dtype=tensor.dtype)
    return own.view(tensor.shape).copy_(tensor)


class FreedMemory:
    """Returns freed heap memory to the system: at once, or when it has grown.

    glibc keeps freed memory that long-lived tensors fragment, more with every layer. Trimming after each sample would
    cost a tenth of the run's time in page faults, since the next sample needs the same memory again. So the first
    measurement after a trim is the usual level, and trimming starts at a sixteenth of a layer above it. Other C
    libraries are not trimmed.
    """

    def __init__(self, layer_bytes: int) -> None:
        self._slack = max(_LEAST_SLACK, layer_bytes // 16)
        # None: the C library of this process; others than glibc have no malloc_trim.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._process = psutil.Process()
        self._usual: int | None = None

    def release(self) -> None:
        """Return all free heap memory to the system."""
        if self._trim is not None:
            self._trim(0)
        self._usual = None

    def release_if_grown(self) -> None:
        """Return free heap memory to the system if the process has grown."""
        memory = self._process.memory_info()
        resident = memory.rss - getattr(memory, "shared", 0)  # the system frees pages of mapped files itself
        if self._usual is None:
            self._usual = resident
        elif resident > self._usual + self._slack:
            self.release()
