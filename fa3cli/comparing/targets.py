"""Says by target what an export is compared with its float model on."""

from __future__ import annotations

from fa3cli.exports.targets import for_pipelines

__all__ = ["COMPARED_ON_TEXT", "compared_on"]

COMPARED_ON_TEXT = ("modelslim", "mindie")
"""The targets of language models whose exports can be simulated."""


def compared_on(*targets: str | None) -> str | None:
    """Return `text` or `images`, for an export that all these targets read; None if it cannot be compared."""
    if all(map(for_pipelines, targets)):
        return "images"
    return "text" if set(targets) <= set(COMPARED_ON_TEXT) else None
