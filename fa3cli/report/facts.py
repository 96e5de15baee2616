"""Defines the facts of a report. None means that the export does not hold the fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa3cli.exports.targets import for_pipelines

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
"""The reason why an embedding stays float."""
OUTSIDE_BLOCKS = "outside the blocks"
"""The reason why linears outside the blocks of a diffusion transformer stay float."""


@dataclass(frozen=True)
class FloatModule:
    """A linear that stayed float, and the setting or other reason that kept it float."""

    name: str
    reason: str | None


@dataclass(frozen=True)
class HeadScales:
    """The scales of q, k or v in one attention module, one per head; None for a scale that is not finite."""

    layer: str
    module: str
    role: str
    tensor: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class TimestepPeaks:
    """The largest magnitude that the ranges of a block's q, k and v keep at one timestep of the sampling."""

    timestep: float
    q: float | None
    k: float | None
    v: float | None


@dataclass(frozen=True)
class LayerFacts:
    """What is quantized in one decoder layer, or in one block of a diffusion transformer, and its errors."""

    name: str
    quantized: int
    """Number of int8 linears."""
    float_linears: tuple[FloatModule, ...]
    fa: bool | None
    """Whether the attention is int8; None if the layer has no attention that could be."""
    fa_roles: tuple[str, ...]
    """The roles among q, k and v that have scales."""
    fa_reason: str | None
    """Why the attention stayed float."""
    fa_score: float | None
    """fa_amp's score: the layers with the lowest scores stay float."""
    error: float | None
    """||quantized - float|| / ||change of the hidden states by the layer||, of this layer alone."""
    accumulated_error: float | None
    """Relative error of the hidden states after this layer, caused by all layers so far."""
    timesteps: tuple[TimestepPeaks, ...]
    """In the order of the sampling; empty if there was no sampling."""


@dataclass(frozen=True)
class Accuracy:
    """Differences between the export and the float model on held-out text."""

    samples: int | None
    samples_cut: int | None
    tokens: int | None
    perplexity_float: float | None
    perplexity_quantized: float | None
    kl_divergence: float | None
    """Nats per token."""
    top1_agreement: float | None
    """Share of positions at which both predict the same token."""


@dataclass(frozen=True)
class ImageAccuracy:
    """Differences between the export's images and the float pipeline's from the same noise."""

    prompts: int
    psnr: tuple[float | None, ...]
    """Per prompt, in dB; None for an image without any difference."""
    mean_psnr: float | None
    """Mean over the images that differ."""
    largest_difference: float | None
    """Largest difference of a value; values are from 0 to 1."""


@dataclass(frozen=True)
class Origin:
    """Inputs, settings and versions of the run, as its report has them."""

    recipe: str | None
    settings: dict[str, Any]
    run: dict[str, Any]
    """dtype, device, threads and the like."""
    versions: dict[str, Any]
    hashes: dict[str, str]
    """sha256 of the inputs."""
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
    serve: str | None
    """The command that serves the export; None if no engine reads it."""
    files: int
    size: int
    """Bytes of all files."""
    layers: tuple[LayerFacts, ...]
    schemes: dict[str, int]
    """Number of int8 linears by the value that the description gives them; empty without a description."""
    quantized_elsewhere: tuple[str, ...]
    """Int8 linears outside the decoder layers, such as a quantized head."""
    float_elsewhere: tuple[FloatModule, ...]
    """Matrices outside the decoder layers that stayed float: embeddings, heads."""
    scales: tuple[HeadScales, ...]
    largest_code: int
    """The largest code: times a scale, the largest value that can be stored. 127 for int8, 448 for float8."""
    accuracy: Accuracy | None
    images: ImageAccuracy | None
    origin: Origin | None
    warnings: tuple[str, ...]
    """Warnings of the run."""
    remarks: tuple[str, ...]
    """Sentences about facts that could not be read or are not known."""

    @property
    def part(self) -> str:
        """The word for a layer: `block` in a diffusion transformer."""
        return "block" if for_pipelines(self.target) else "layer"

    @property
    def quantized(self) -> int:
        """Number of int8 linears."""
        return sum(layer.quantized for layer in self.layers) + len(self.quantized_elsewhere)

    @property
    def left_float(self) -> int:
        """Number of float linears within the layers."""
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
        """The three layers with the largest `error`, largest first."""
        measured = [layer for layer in self.layers if layer.error is not None]
        return tuple(sorted(measured, key=lambda layer: -(layer.error or 0))[:3])
