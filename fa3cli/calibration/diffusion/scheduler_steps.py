"""Tells the steps of a sampling run: each ends where the pipeline asks its scheduler for the next latents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from fa3cli.calibration.replaced import replaced

__all__ = ["at_each_step"]


def at_each_step(scheduler: Any, ends: Callable[[], None]) -> AbstractContextManager[None]:
    """Have `ends` called within the block before each step of the scheduler.

    Timesteps tell no steps apart: rounded to bfloat16, several may have the same.
    """
    step = scheduler.step

    @wraps(step)  # pipelines look at its arguments
    def told(*arguments: Any, **named: Any) -> Any:
        ends()
        return step(*arguments, **named)

    return replaced(scheduler, "step", told)
