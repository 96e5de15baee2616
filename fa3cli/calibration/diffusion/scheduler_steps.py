"""Separates the steps of a sampling run: a step ends when the pipeline calls its scheduler for the next latents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from fa3cli.calibration.replaced import temporarily

__all__ = ["before_each_step"]


def before_each_step(scheduler: Any, ends: Callable[[], None]) -> AbstractContextManager[None]:
    """Call `ends` before each step of the scheduler within the block.

    Timesteps cannot separate steps: rounded to bfloat16, several steps may have the same timestep.
    """
    step = scheduler.step

    @wraps(step)  # pipelines inspect its signature
    def step_with_callback(*arguments: Any, **named: Any) -> Any:
        ends()
        return step(*arguments, **named)

    return temporarily(scheduler, "step", step_with_callback)
