"""How far a run over the layers is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """Layers done, and samples done in the layer at hand."""

    layer: int
    layers: int
    sample: int
    samples: int
