"""Formats values and sentences of a report, for both the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fa3cli.exports.targets import for_pipelines
from fa3cli.report.facts import Accuracy, Facts, ImageAccuracy, LayerFacts, Origin
from fa3cli.report.names import layer_number

__all__ = [
    "NO_ENGINE",
    "accuracy_rows",
    "calibrated_on",
    "change",
    "count",
    "decibels",
    "exact",
    "fraction",
    "how_to_measure",
    "image_rows",
    "int8_linears",
    "labels",
    "measured_on",
    "percent",
    "significant",
    "size",
    "value_text",
]


NO_ENGINE = "no engine reads this export"


def labels(layers: Iterable[LayerFacts]) -> dict[str, str]:
    """Return a short label for each layer's name: its number, or the name if numbers are not unique."""
    names = [layer.name for layer in layers]
    numbers = [layer_number(name) for name in names]
    return dict(zip(names, numbers if len(set(numbers)) == len(numbers) else names, strict=True))


def count(number: int, noun: str) -> str:
    """Return `1 linear`, `2 linears`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fraction(part: int, whole: int) -> str:
    """Return `all 28`, `27 of 28`, or `none`."""
    if not part:
        return "none"
    return f"all {whole}" if part == whole else f"{part} of {whole}"


def significant(number: float | None) -> str:
    """Return a number with three significant digits."""
    return "–" if number is None else f"{number:#.3g}".rstrip(".")


def exact(number: float | None) -> str:
    """Return a number with three decimals."""
    return "–" if number is None else f"{number:.3f}"


def percent(ratio: float | None) -> str:
    """Return a ratio in percent, with three significant digits."""
    return "–" if ratio is None else f"{significant(100 * ratio)}\N{NO-BREAK SPACE}%"


def decibels(psnr: float | None) -> str:
    """Return the PSNR of an image as text; None means that nothing differs."""
    return "the same" if psnr is None else f"{psnr:.1f}\N{NO-BREAK SPACE}dB"


def change(before: float | None, after: float | None) -> str:
    """Return by how many percent a value changed, with its sign."""
    return f"{100 * (after / before - 1):+.2f}\N{NO-BREAK SPACE}%" if before and after is not None else "–"


def size(nbytes: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def value_text(value: Any) -> str:
    """Return a setting's value as text; an entry of a list that is a pair becomes `glob=scheme`."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_entry_text, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(item)}" for name, item in value.items() if item is not None)
    return "–" if value is None else str(value)


def _entry_text(value: Any) -> str:
    return "=".join(map(value_text, value)) if isinstance(value, (list, tuple)) else value_text(value)


def int8_linears(number: int, schemes: Mapping[str, int]) -> str:
    """Return the number of int8 linears, and of each scheme by its value in the description, as far as known."""
    if len(schemes) > 1:
        return f"{number:,}: {', '.join(f'{part:,} {value}' for value, part in schemes.items())}"
    return " ".join((f"{number:,}", *schemes))


def accuracy_rows(accuracy: Accuracy) -> list[tuple[str, str, str]]:
    """Return the names of the measurements on text, and their values for the float and for the quantized model."""
    agreement = accuracy.top1_agreement
    changed = change(accuracy.perplexity_float, accuracy.perplexity_quantized)
    quantized = f"{exact(accuracy.perplexity_quantized)} ({changed})"
    return [
        ("perplexity", exact(accuracy.perplexity_float), quantized),
        ("KL divergence from float, nats per token", "", significant(accuracy.kl_divergence)),
        # Two decimals: three digits would round 99.97 % to 100 %.
        ("same most likely token", "", "–" if agreement is None else f"{100 * agreement:.2f}\N{NO-BREAK SPACE}%"),
    ]


def image_rows(images: ImageAccuracy | None) -> list[tuple[str, str]]:
    """Return names and values of the measurements on images; an empty list if there are none."""
    if images is None:
        return []
    lowest = min((psnr for psnr in images.psnr if psnr is not None), default=None)
    return [
        ("prompts", str(images.prompts)),
        ("mean PSNR of the images that differ", decibels(images.mean_psnr)),
        ("lowest PSNR", decibels(lowest)),
        ("largest difference of values from 0 to 1", significant(images.largest_difference)),
    ]


def measured_on(accuracy: Accuracy) -> str:
    """Return the amount of text on which the export and the float model were compared."""
    cut = f", {accuracy.samples_cut} of them cut to the model's longest input" if accuracy.samples_cut else ""
    return f"{_known(accuracy.tokens, 'predicted token')} in {_known(accuracy.samples, 'sample')}{cut}."


def calibrated_on(origin: Origin) -> str:
    """Return the amount of calibration data: text, or calls of a diffusion transformer, which have no tokens."""
    if origin.tokens == 0:
        return _known(origin.samples, "sample")
    return f"{_known(origin.samples, 'sample')} with {_known(origin.tokens, 'token')}"


def how_to_measure(facts: Facts) -> str:
    """Return the command that compares an export with the float model."""
    against = "PIPELINE_DIR --eval PROMPTS" if for_pipelines(facts.target) else "WEIGHTS_DIR --eval TEXT.jsonl"
    return f"fa3 verify {facts.folder} --against {against}"


def _known(number: int | None, noun: str) -> str:
    return f"an unknown number of {noun}s" if number is None else count(number, noun)
