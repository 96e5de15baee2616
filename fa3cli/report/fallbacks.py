"""Lists the modules that stayed float, and the reasons in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from fa3cli.quantization.float_only import LATENT_ATTENTION, ROUTER
from fa3cli.report.facts import NOT_LINEAR, Facts, LayerFacts
from fa3cli.report.names import layer_number, number_ranges, relative_name, starred_numbers

__all__ = ["Fallback", "fallbacks", "linears_by_reason", "reason_text"]

_REASONS = {
    "disable_names": "named by disable_names",
    "include_names": "not named by include_names",
    "disable_level": "among the hardest to quantize, by disable_level",
    "disable_last_linear": "the last linear, by disable_last_linear",
    "fa_amp": "among the lowest scores, by fa_amp",
    ROUTER: "a router of the experts, which engines read as float",
    LATENT_ATTENTION: "belongs to latent attention (MLA)",
    "experts joined in one tensor": "the checkpoint joins the experts of a layer in one tensor",
    "fused with one that is disabled": "engines fuse it with a linear that stays float",
    "fa is off": "q, k and v are not quantized, by --no-fa",
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
    """Return a row per name and reason of the modules that stayed float; rows of the most modules come first."""
    found: dict[tuple[str, str | None], list[LayerFacts]] = defaultdict(list)
    for layer in facts.layers:
        for linear in layer.float_linears:
            found[starred_numbers(relative_name(linear.name, layer.name)), linear.reason].append(layer)
        if layer.fa is False:
            found["q, k and v of the attention", layer.fa_reason].append(layer)
    rows = [
        Fallback(module, _where(list(dict.fromkeys(layers)), facts), len(layers), reason_text(reason))
        for (module, reason), layers in found.items()
    ]
    rows.sort(key=lambda row: -row.count)
    elsewhere = f"outside the {facts.part}s"
    return rows + [Fallback(module.name, elsewhere, 1, reason_text(module.reason)) for module in facts.float_elsewhere]


def reason_text(reason: str | None) -> str:
    """Return a reason in words; a reason that this version does not know is returned unchanged."""
    return _REASONS.get(reason) or str(reason)


def linears_by_reason(layer: LayerFacts) -> str:
    """Return a layer's float linears in one line, grouped by reason: `gate, up (disable_names); down`."""
    names: dict[str | None, Counter[str]] = defaultdict(Counter)
    for linear in layer.float_linears:
        names[linear.reason][linear.name.rpartition(".")[2]] += 1
    groups = [
        ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in counted.items())
        + (f" ({reason})" if reason else "")
        for reason, counted in names.items()
    ]
    return "; ".join(groups) or "–"


def _where(layers: list[LayerFacts], facts: Facts) -> str:
    if len(layers) == len(facts.layers) > 1:
        return f"all {len(layers)} {facts.part}s"
    prefixes = {layer.name.rpartition(".")[0] for layer in layers}
    numbers = [layer_number(layer.name) for layer in layers]
    if len(prefixes) == 1 and all(number.isdecimal() for number in numbers):
        [prefix] = prefixes
        stacks = {layer.name.rpartition(".")[0] for layer in facts.layers}
        of = f" of {prefix}" if len(stacks) > 1 else ""  # a diffusion transformer has two stacks of blocks
        return f"{facts.part}{'s' if len(layers) > 1 else ''} {number_ranges(map(int, numbers))}{of}"
    return ", ".join(layer.name for layer in layers)
