"""Bounds for what code that follows a stranger's numbers may take: templates, and models built from a configuration."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ["bounded_building", "bounded_memory", "bounded_modules", "bounded_time"]

# Every module holds tensors but for containers, activations and dropout; a fused tensor may be of many modules.
_MODULES_A_TENSOR, _MODULES_BESIDES = 20, 10_000
_MODULES = 1_000_000
"""Of a model of any size."""


@contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where the block takes longer. In a thread other than the main one nothing is bounded.

    A timer that was running goes on behind the block, and its handler is the one it had.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    # Again every second: what is raised within a destructor is lost.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)


@contextmanager
def bounded_memory(nbytes: int) -> Iterator[None]:
    """Have the system refuse this process, within the block, memory of more than `nbytes` besides what it has.

    Systems other than Linux may not be able to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + nbytes
    limits = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def bounded_modules(count: int) -> Iterator[None]:
    """Raise ValueError where more than `count` modules are made in the block."""
    made = 0

    def note(_: nn.Module, __: str, ___: nn.Module | None) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise ValueError(f"it asks for more than {count} modules")

    hook = register_module_module_registration_hook(note)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def bounded_building(tensors: int | None = None) -> Iterator[None]:
    """Have a model that is built in the block take no more memory than is free, nor many more modules than it has `tensors`."""
    most = _MODULES if tensors is None else _MODULES_A_TENSOR * tensors + _MODULES_BESIDES
    with bounded_memory(psutil.virtual_memory().available), bounded_modules(most):
        yield
