"""What compressed-tensors' `quantization_config` says, read without raising, and what it must say for vLLM."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["FORMATS", "INPUTS", "KV_CACHE_SCHEME", "WEIGHTS", "differences", "groups_of", "matches", "short"]

# The formats under which vLLM looks at how activations are quantized.
FORMATS = ("int-quantized", "naive-quantized")
_INT8 = {"num_bits": 8, "type": "int", "dynamic": False}
WEIGHTS = {**_INT8, "symmetric": True, "strategy": ("channel", "tensor")}
INPUTS = {**_INT8, "symmetric": False, "strategy": ("tensor",)}
KV_CACHE_SCHEME = {
    "num_bits": 8,
    "type": "float",
    "dynamic": False,
    "symmetric": True,
    "strategy": ("attn_head", "tensor"),
}


def groups_of(own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups that speak of linears; one without weights is about attention."""
    groups = own.get("config_groups")
    every = groups if isinstance(groups, dict) else {}
    return {
        name: group
        for name, group in every.items()
        if isinstance(group, dict) and group.get("weights") is not None
    }


def differences(found: Any, wanted: dict[str, Any]) -> Iterator[str]:
    """Yield how a quantization's arguments differ from `wanted`, whose tuples are alternatives."""
    if not isinstance(found, dict):
        yield f" is {short(found)}, expected the arguments of a quantization"
        return
    for key, expected in wanted.items():
        value, legal = found.get(key), expected if isinstance(expected, tuple) else (expected,)
        if not any(value == each and type(value) is type(each) for each in legal):
            yield f": {key} is {short(value)}, expected {' or '.join(map(repr, legal))}"


def matches(pattern: str, module: str) -> bool:
    """Return whether a name, or a regular expression behind `re:`, means this module."""
    if not pattern.startswith("re:"):
        return pattern == module
    try:
        return re.match(pattern.removeprefix("re:"), module) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def short(value: Any) -> str:
    """Return a value as a message can quote it."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."
