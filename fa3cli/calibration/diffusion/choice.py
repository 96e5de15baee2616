"""Chooses the steps of the prompts that are recorded."""

from __future__ import annotations

from math import lcm

__all__ = ["recorded_steps"]


def recorded_steps(prompts: int, steps: int, count: int | None) -> frozenset[tuple[int, int]]:
    """Return the pairs of prompt and step to record: all pairs without a `count`, else at most `count`.

    The numbers of pairs per prompt differ by at most one; so do those per step if `count` is at least `steps`. Otherwise
    the steps are spread evenly from the first to the last. The first step of the first prompt is always included.
    """
    count = prompts * steps if count is None else min(count, prompts * steps)
    if count < steps:
        return frozenset(
            (index % prompts, index * (steps - 1) // max(count - 1, 1)) for index in range(count)
        )
    # Cycle both; shift the step by one per full cycle, so that no pair repeats.
    period = lcm(prompts, steps)
    return frozenset((index % prompts, (index + index // period) % steps) for index in range(count))
