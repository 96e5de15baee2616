"""Which steps of which prompts are recorded, where not all of them are."""

from __future__ import annotations

from math import lcm

__all__ = ["chosen"]


def chosen(prompts: int, steps: int, count: int | None) -> frozenset[tuple[int, int]]:
    """Return the pairs of prompt and step to record: all without a `count`, else at most so many.

    Every prompt is in as many of them as any other, or one less. So is every step, if there are pairs enough; if not, the
    steps are spread evenly from the first to the last. The first step of the first prompt is always among them.
    """
    count = prompts * steps if count is None else min(count, prompts * steps)
    if count < steps:
        return frozenset(
            (index % prompts, index * (steps - 1) // max(count - 1, 1)) for index in range(count)
        )
    # Both run around, and the steps move on by one whenever the two would be where they began: no pair comes twice.
    period = lcm(prompts, steps)
    return frozenset((index % prompts, (index + index // period) % steps) for index in range(count))
