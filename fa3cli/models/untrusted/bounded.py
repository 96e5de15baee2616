"""Limits the time, memory and modules of code that untrusted files control: chat templates, model building."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil  # type: ignore[import-untyped]  # psutil has no types
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ["bounded_building", "bounded_memory", "bounded_modules", "bounded_time"]

# Every module holds tensors except containers, activations and dropout; one fused tensor may belong to many modules.
_MODULES_PER_TENSOR, _EXTRA_MODULES = 20, 10_000
_MODULES = 1_000_000
"""The limit where the number of tensors is not known."""


@contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer; only the main thread is limited, since others get no signals.

    A timer that was already running continues after the block, with its own handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    # Repeats every second: Python drops an exception that is raised within a destructor.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        # The timer stops before the handler is restored: with the default handler, a late signal would end the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)


@contextmanager
def bounded_memory(nbytes: int) -> Iterator[None]:
    """Limit the memory that this process may allocate within the block to `nbytes` more than it has.

    Systems other than Linux may not support this.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # RLIMIT_AS limits the address space, so the limit counts from the virtual size, not the resident one.
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
    """Raise ValueError if the block creates more than `count` modules."""
    made = 0

    def count_module(_: nn.Module, __: str, ___: nn.Module | None) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise ValueError(f"it builds more than {count} modules")

    hook = register_module_module_registration_hook(count_module)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def bounded_building(tensors: int | None = None) -> Iterator[None]:
    """Limit a model that is built in the block to the free memory, and its modules to a multiple of its `tensors`."""
    most = _MODULES if tensors is None else _MODULES_PER_TENSOR * tensors + _EXTRA_MODULES
    with bounded_memory(psutil.virtual_memory().available), bounded_modules(most):
        yield
