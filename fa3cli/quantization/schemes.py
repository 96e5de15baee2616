"""Defines the schemes by which a linear is quantized, and chooses one per linear."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = [
    "DYNAMIC",
    "MIX",
    "SCHEMES",
    "STATIC",
    "Scheme",
    "is_expert",
    "mixture_of",
    "schemes_of",
]


@dataclass(frozen=True)
class Scheme:
    """A way to quantize a linear: its name in `--scheme`, and its value in the description."""

    name: str
    value: str
    dynamic: bool = False
    """Whether inputs are quantized at run time, per token; else the export holds the input's scale."""


STATIC = Scheme("w8a8", "W8A8")
DYNAMIC = Scheme("w8a8-dynamic", "W8A8_DYNAMIC", dynamic=True)
# The tensors of W8A8: engines quantize inputs per token while they prefill, and with the stored scale while they decode.
MIX = Scheme("w8a8-mix", "W8A8_MIX")
SCHEMES = {scheme.name: scheme for scheme in (STATIC, DYNAMIC, MIX)}


def schemes_of(linears: Collection[str], default: str, patterns: Sequence[Sequence[str]]) -> dict[str, Scheme]:
    """Return the scheme of each linear: of the last pattern, (glob, scheme), that matches its name, else the default.

    Experts are quantized dynamically by default: engines support no other scheme for them.
    """
    chosen = {name: DYNAMIC if is_expert(name) else SCHEMES[default] for name in linears}
    # In order, so that the last pattern that matches decides, also for experts.
    for pattern, scheme in patterns:
        chosen |= {name: SCHEMES[scheme] for name in linears if fnmatchcase(name, pattern)}
    return chosen


def is_expert(name: str) -> bool:
    """Tell whether a linear or tensor is of a mixture's experts; shared experts, which see all tokens, are not."""
    return ".experts." in name


def mixture_of(expert: str) -> str:
    """Return the module that holds the experts of a layer and their router: `mlp` of `mlp.experts.3.up_proj`."""
    return expert.partition(".experts.")[0]
