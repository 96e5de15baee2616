"""The facts of a report. None stands for what the export does not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "NOT_LINEAR",
    "OUTSIDE_BLOCKS",
    "Accuracy",
    "Facts",
    "FloatModule",
    "HeadScales",
    "ImageAccuracy",
    "LayerFacts",
    "Origin",
    "TimestepPeaks",
]

NOT_LINEAR = "not a linear"
"""The reason for which an embedding stays float."""
OUTSIDE_BLOCKS = "outside the blocks"
"""The reason for which the other linears of a diffusion transformer stay float."""


@dataclass(frozen=True)
class FloatModule:
    """A linear that stayed float, and what decided so."""

    name: str
    reason: str | None


@dataclass(frozen=True)
class HeadScales:
    """The scales of q, k or v in one attention module, one a head; None where one is not a finite number."""

    layer: str
    module: str
    role: str
    tensor: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class TimestepPeaks:
    """The largest bound of the recall windows of q, k and v of a block at one timestep of the sampling."""

    timestep: float
    q: float | None
    k: float | None
    v: float | None


@dataclass(frozen=True)
class LayerFacts:
    """What became of one decoder layer, or of one block of a diffusion transformer."""

    name: str
    quantized: int
    """Number of its linears that are W8A8."""
    float_linears: tuple[FloatModule, ...]
    fa: bool | None
    """Whether its attention is int8; None where it has none that could be."""
    fa_roles: tuple[str, ...]
    """Which of q, k and v have scales of their own."""
    fa_reason: str | None
    """What left its attention float."""
    fa_score: float | None
    """fa_amp's score: layers with the lowest fall back."""
    error: float | None
    """||quantized - float|| / ||what the layer adds to the hidden states||, of this layer alone."""
    accumulated_error: float | None
    """Relative error of the hidden states behind this layer, of all layers so far."""
    timesteps: tuple[TimestepPeaks, ...]
    """In the order of the sampling; none where there was no sampling."""


@dataclass(frozen=True)
class Accuracy:
    """How far the export was from the float model on held-out text."""

    samples: int | None
    samples_cut: int | None
    tokens: int | None
    perplexity_float: float | None
    perplexity_quantized: float | None
    kl_divergence: float | None
    """Nats a token."""
    top1_agreement: float | None
    """Share of tokens for which both predict the same one."""


@dataclass(frozen=True)
class ImageAccuracy:
    """How far the export's images were from those the float pipeline made of the same noise."""

    prompts: int
    psnr: tuple[float | None, ...]
    """Of each prompt's in dB; None where nothing differed."""
    mean_psnr: float | None
    """Over those that differed."""
    largest_difference: float | None
    """Of values from 0 to 1."""


@dataclass(frozen=True)
class Origin:
    """What the export was made from, and with: all of it as the run wrote it down."""

    recipe: str | None
    settings: dict[str, Any]
    run: dict[str, Any]
    """dtype, device, threads and the like."""
    versions: dict[str, Any]
    hashes: dict[str, str]
    """sha256 of what went in."""
    samples: int | None
    tokens: int | None


@dataclass(frozen=True)
class Facts:
    """Everything a report shows."""

    folder: str
    name: str
    model_type: str | None
    architecture: str | None
    dtype: str | None
    target: str | None
    files: int
    size: int
    """Bytes of all files."""
    layers: tuple[LayerFacts, ...]
    quantized_elsewhere: tuple[str, ...]
    """W8A8 linears outside the decoder layers, such as a quantized head."""
    float_elsewhere: tuple[FloatModule, ...]
    """Matrices outside the decoder layers that stayed float: embeddings, heads."""
    scales: tuple[HeadScales, ...]
    largest_code: int
    """What a scale is multiplied by to give the largest value it can store: int8's 127, float8's 448."""
    accuracy: Accuracy | None
    images: ImageAccuracy | None
    origin: Origin | None
    warnings: tuple[str, ...]
    """What the run warned of."""
    remarks: tuple[str, ...]
    """What could not be read or is not known, in sentences."""

    @property
    def part(self) -> str:
        """What its layers are called: block in a diffusion transformer."""
        return "block" if self.target == "mindie-sd" else "layer"

    @property
    def quantized(self) -> int:
        """Number of W8A8 linears."""
        return sum(layer.quantized for layer in self.layers) + len(self.quantized_elsewhere)

    @property
    def left_float(self) -> int:
        """Number of float linears in all layers."""
        return sum(len(layer.float_linears) for layer in self.layers)

    @property
    def with_fa(self) -> int:
        """Number of layers whose attention is int8."""
        return sum(layer.fa is True for layer in self.layers)

    @property
    def attentions(self) -> int:
        """Number of layers whose attention is int8 or float."""
        return sum(layer.fa is not None for layer in self.layers)

    @property
    def worst(self) -> tuple[LayerFacts, ...]:
        """The three layers with the largest error of their own."""
        measured = [layer for layer in self.layers if layer.error is not None]
        return tuple(sorted(measured, key=lambda layer: -(layer.error or 0))[:3])
