"""How a report puts things: the same words in the terminal and on the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fa3cli.report.data import NOT_LINEAR
from fa3cli.report.facts import Accuracy, Facts, FloatModule, LayerFacts, Origin
from fa3cli.report.names import any_number, inside, layer_number, spans

__all__ = [
    "Fallback",
    "calibrated_on",
    "change",
    "count",
    "exact",
    "fallbacks",
    "fraction",
    "how_to_measure",
    "labels",
    "linears_by_reason",
    "measured_on",
    "percent",
    "reason_text",
    "significant",
    "size",
    "value_text",
]

_REASONS = {
    "disable_names": "named by disable_names",
    "disable_level": "among the hardest to quantize, by disable_level",
    "disable_last_linear": "the last linear, by disable_last_linear",
    "fa_amp": "among the lowest scores, by fa_amp",
    NOT_LINEAR: "not a linear",
    None: "not recorded",
}


@dataclass(frozen=True)
class Fallback:
    """Modules of the same name and reason that stayed float, in one or many layers."""

    module: str
    where: str
    count: int
    reason: str


def fallbacks(facts: Facts) -> list[Fallback]:
    """Return all that stayed float, those of the same name in one row, and those of the most layers first."""
    found: dict[tuple[str, str | None], list[LayerFacts]] = defaultdict(list)
    for layer in facts.layers:
        for linear in layer.float_linears:
            found[any_number(inside(linear.name, layer.name)), linear.reason].append(layer)
        if facts.with_fa and not layer.fa_roles:
            found["q, k and v of the attention", layer.fa_reason].append(layer)
    rows = [
        Fallback(module, _where(list(dict.fromkeys(layers)), facts), len(layers), reason_text(reason))
        for (module, reason), layers in found.items()
    ]
    rows.sort(key=lambda row: -row.count)
    return rows + [_elsewhere(module) for module in facts.float_elsewhere]


def reason_text(reason: str | None) -> str:
    """Return why something stayed float, in words; a reason this version does not know as it is."""
    return _REASONS.get(reason) or str(reason)


def linears_by_reason(layer: LayerFacts) -> str:
    """Return a layer's float linears in one line, each reason once behind those it is the reason of."""
    names: dict[str | None, Counter[str]] = defaultdict(Counter)
    for linear in layer.float_linears:
        names[linear.reason][linear.name.rpartition(".")[2]] += 1
    told = [
        ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in counted.items())
        + (f" ({reason})" if reason else "")
        for reason, counted in names.items()
    ]
    return "; ".join(told) or "–"


def labels(layers: Iterable[LayerFacts]) -> dict[str, str]:
    """Return a short label for each layer's name: its number, if that tells it from all others."""
    names = [layer.name for layer in layers]
    numbers = [layer_number(name) for name in names]
    return dict(zip(names, numbers if len(set(numbers)) == len(numbers) else names, strict=True))


def count(number: int, noun: str) -> str:
    """Return `1 linear`, `2 linears`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fraction(part: int, whole: int) -> str:
    """Return `all 28` or `27 of 28`."""
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


def change(before: float | None, after: float | None) -> str:
    """Return by how many percent a value changed, with its sign."""
    return f"{100 * (after / before - 1):+.2f}\N{NO-BREAK SPACE}%" if before and after is not None else "–"


def size(nbytes: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def value_text(value: Any) -> str:
    """Return a setting's value as text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def measured_on(accuracy: Accuracy) -> str:
    """Return how much text the float model was compared on."""
    cut = (
        f", {accuracy.samples_cut} of them cut to the length the model takes" if accuracy.samples_cut else ""
    )
    return f"{_known(accuracy.tokens, 'predicted token')} in {_known(accuracy.samples, 'sample')}{cut}."


def calibrated_on(origin: Origin) -> str:
    """Return how much text the parameters were chosen on."""
    return f"{_known(origin.samples, 'sample')} with {_known(origin.tokens, 'token')}"


def how_to_measure(facts: Facts) -> str:
    """Return the command that compares an export with the float model."""
    return f"fa3 verify {facts.folder} --against WEIGHTS_DIR --eval TEXT.jsonl"


def _where(layers: list[LayerFacts], facts: Facts) -> str:
    if len(layers) == len(facts.layers) > 1:
        return f"all {len(layers)} layers"
    prefixes = {layer.name.rpartition(".")[0] for layer in layers}
    numbers = [layer_number(layer.name) for layer in layers]
    if len(prefixes) == 1 and all(number.isdecimal() for number in numbers):
        return f"layer{'s' if len(layers) > 1 else ''} {spans(map(int, numbers))}"
    return ", ".join(layer.name for layer in layers)


def _elsewhere(module: FloatModule) -> Fallback:
    return Fallback(module.name, "outside the layers", 1, reason_text(module.reason))


def _known(number: int | None, noun: str) -> str:
    return f"an unknown number of {noun}s" if number is None else count(number, noun)
