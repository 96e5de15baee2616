"""Finds the linears that engines read only as float: routers, and the expansion of latent attention (MLA)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from fa3cli.quantization.schemes import is_expert, mixture_of

__all__ = ["LATENT_ATTENTION", "ROUTER", "never_quantized", "routers"]

# Reasons, in plans and reports.
LATENT_ATTENTION, ROUTER = "latent attention", "router"
# Names as in Mixtral (gate) and Qwen2-MoE (gate, shared_expert_gate); not gate_proj.
_GATE = re.compile(r"(\w+_)?gate$")


def never_quantized(linears: Collection[str]) -> dict[str, str]:
    """Return the linears that engines read only as float, with the reason."""
    # Attention absorbs kv_b_proj, which expands the latent state to k and v of all heads, into q and the output.
    latent = dict.fromkeys((name for name in linears if name.endswith(".kv_b_proj")), LATENT_ATTENTION)
    return dict.fromkeys(routers(linears), ROUTER) | latent


def routers(linears: Collection[str]) -> list[str]:
    """Return the linears that choose the experts of a token, or weigh the shared expert: engines read them as float.

    They are called router, or gate if they are beside experts.
    """
    mixtures = {mixture_of(name) for name in linears if is_expert(name)}
    return [
        name
        for name in linears
        if any(child == "router" or (parent in mixtures and _GATE.match(child)) for parent, child in _parents(name))
    ]


def _parents(name: str) -> Iterator[tuple[str, str]]:
    """Yield each module around a name, and its child on the way to the name."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count]), parts[count]
