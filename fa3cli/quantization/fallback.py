"""Fallback to float: which attention modules get no FA3 parameters (fa_amp)."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["fall_back"]


def fall_back(scores: Mapping[str, float], count: int) -> frozenset[str]:
    """Return the `count` modules with the lowest scores, ties in module order; all of them if `count` is larger."""
    return frozenset(sorted(scores, key=scores.__getitem__)[:count])
