"""Defines the schemes by which a linear is quantized, and chooses one per linear."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = [
    "DYNAMIC",
    "LATENT_ATTENTION",
    "MIX",
    "ROUTER",
    "SCHEMES",
    "STATIC",
    "Scheme",
    "is_expert",
    "mixture_of",
    "never_quantized",
    "routers",
    "schemes_of",
]


@dataclass(frozen=True)
class Scheme:
    """A way to quantize a linear: its name in `--scheme`, and its value in the description."""

    name: str
    value: str
    dynamic: bool = False
    """Whether inputs are quantized at run time, per token; else the export holds the input's scale."""


LATENT_ATTENTION, ROUTER = "latent attention", "router"
_ROUTER = re.compile(r"(\w+_)?gate$|router")
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
    for pattern, scheme in patterns:
        chosen |= {name: SCHEMES[scheme] for name in linears if fnmatchcase(name, pattern)}
    return chosen


def never_quantized(linears: Collection[str]) -> dict[str, str]:
    """Return the linears that engines read only as float, with the reason."""
    # Attention absorbs kv_b_proj, which expands the latent state to k and v of all heads, into q and the output.
    latent = dict.fromkeys((name for name in linears if name.endswith(".kv_b_proj")), LATENT_ATTENTION)
    return dict.fromkeys(routers(linears), ROUTER) | latent


def routers(linears: Collection[str]) -> list[str]:
    """Return the linears that choose the experts of a token, or weigh the shared expert: engines read them as float.

    They are beside the experts, and are called gate or router.
    """
    mixtures = {mixture_of(name) for name in linears if is_expert(name)}
    return [name for name in linears for parent, child in _parents(name) if parent in mixtures and _ROUTER.match(child)]


def _parents(name: str) -> Iterator[tuple[str, str]]:
    """Yield each module around a name, and its child on the way to the name."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count]), parts[count]


def is_expert(linear: str) -> bool:
    """Tell whether a linear is one of a mixture's experts; shared experts, which see all tokens, are not."""
    return ".experts." in linear


def mixture_of(expert: str) -> str:
    """Return the module that holds the experts of a layer and their router: `mlp` of `mlp.experts.3.up_proj`."""
    return expert.partition(".experts.")[0]
