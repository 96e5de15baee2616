"""Reads what a run recorded in fa3_report.json; versions of fa3 differ, so values of unexpected types are skipped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fa3cli.report.facts import Accuracy, FloatModule, ImageAccuracy, Origin, TimestepPeaks

__all__ = ["Recorded", "RecordedLayer", "read_recorded"]

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RecordedLayer:
    """One layer, as the run recorded it."""

    name: str
    quantized: int
    float_linears: tuple[FloatModule, ...]
    fa: bool | None
    fa_reason: str | None
    fa_score: float | None
    error: float | None
    timesteps: tuple[TimestepPeaks, ...]


@dataclass(frozen=True)
class Recorded:
    """The contents of fa3_report.json; empty if there is no report."""

    layers: dict[str, RecordedLayer] = field(default_factory=dict)
    layer_errors: tuple[float | None, ...] = ()
    """Accumulated errors, one per layer."""
    accuracy: Accuracy | None = None
    images: ImageAccuracy | None = None
    origin: Origin | None = None
    target: str | None = None
    warnings: tuple[str, ...] = ()


def read_recorded(report: Mapping[str, Any]) -> Recorded:
    """Return the values of a parsed report that have the expected types; all others are omitted."""
    result, comparison = _mapping(report.get("result")), _mapping(report.get("comparison"))
    layers = [_layer(layer) for layer in _list(result.get("layers")) if isinstance(layer, dict)]
    origin = _origin(report, result)
    return Recorded(
        layers={layer.name: layer for layer in layers if layer.name},
        layer_errors=tuple(_number(error) for error in _list(comparison.get("layer_errors"))),
        accuracy=_accuracy(comparison) if comparison and "psnr" not in comparison else None,
        images=_images(comparison),
        origin=origin,
        target=_text(report.get("target")) or _text(origin.settings.get("target")),
        warnings=tuple(map(str, _list(result.get("warnings")))),
    )


def _layer(layer: Mapping[str, Any]) -> RecordedLayer:
    linears = layer.get("float_linears")
    # Older reports list the names, later ones map each name to its reason.
    reasons = linears if isinstance(linears, dict) else dict.fromkeys(map(str, _list(linears)))
    return RecordedLayer(
        name=_text(layer.get("name")) or "",
        quantized=_count(layer.get("quantized")) or 0,
        float_linears=tuple(FloatModule(str(name), _text(reason)) for name, reason in reasons.items()),
        fa=layer["fa"] if isinstance(layer.get("fa"), bool) else None,
        fa_reason=_text(layer.get("fa_reason")),
        fa_score=_number(layer.get("fa_score")),
        error=_number(layer.get("error")),
        timesteps=tuple(
            TimestepPeaks(timestep, *(_number(peaks.get(role)) for role in "qkv"))
            for peaks in _list(layer.get("timesteps"))
            if isinstance(peaks, dict) and (timestep := _number(peaks.get("timestep"))) is not None
        ),
    )


def _accuracy(comparison: Mapping[str, Any]) -> Accuracy:
    return Accuracy(
        samples=_count(comparison.get("samples")),
        samples_cut=_count(comparison.get("samples_cut")),
        tokens=_count(comparison.get("tokens")),
        perplexity_float=_number(comparison.get("perplexity_float")),
        perplexity_quantized=_number(comparison.get("perplexity_quantized")),
        kl_divergence=_number(comparison.get("kl_divergence")),
        top1_agreement=_number(comparison.get("top1_agreement")),
    )


def _images(comparison: Mapping[str, Any]) -> ImageAccuracy | None:
    psnr = _list(comparison.get("psnr"))
    if not psnr or any(value is not None and _number(value) is None for value in psnr):
        return None
    return ImageAccuracy(
        prompts=len(psnr),
        psnr=tuple(map(_number, psnr)),
        mean_psnr=_number(comparison.get("mean_psnr")),
        largest_difference=_number(comparison.get("largest_difference")),
    )


def _origin(report: Mapping[str, Any], result: Mapping[str, Any]) -> Origin:
    identity = _mapping(report.get("identity"))
    hashes = {name: value for name, value in identity.items() if isinstance(value, str) and _HASH.fullmatch(value)}
    shown_elsewhere = {*hashes, "settings", "versions"}
    return Origin(
        recipe=_text(report.get("recipe")),
        settings=_mapping(identity.get("settings")),
        run={name: value for name, value in identity.items() if name not in shown_elsewhere},
        versions=_mapping(identity.get("versions")),
        hashes=hashes,
        samples=_count(result.get("samples")),
        tokens=_count(result.get("tokens")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # integers in JSON are unbounded
        return None
