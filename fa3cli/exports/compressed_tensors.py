"""Reads the `quantization_config` of compressed-tensors without raising, and lists the values that vLLM accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = [
    "DYNAMIC_INPUTS",
    "FORMATS",
    "INPUTS",
    "KV_CACHE_SCHEME",
    "WEIGHTS",
    "differences",
    "group_of",
    "linear_groups",
    "matches",
    "quoted",
]

# With other formats vLLM ignores how activations are quantized.
FORMATS = ("int-quantized", "naive-quantized")
_INT8 = {"num_bits": 8, "type": "int", "dynamic": False}
WEIGHTS = {**_INT8, "symmetric": True, "strategy": ("channel", "tensor")}
INPUTS = {**_INT8, "symmetric": False, "strategy": ("tensor",)}
DYNAMIC_INPUTS = {**_INT8, "dynamic": True, "symmetric": True, "strategy": ("token",)}
KV_CACHE_SCHEME = {
    "num_bits": 8,
    "type": "float",
    "dynamic": False,
    "symmetric": True,
    "strategy": ("attn_head", "tensor"),
}


def linear_groups(own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups of linears; a group without weights describes attention."""
    groups = own.get("config_groups")
    all_groups = groups if isinstance(groups, dict) else {}
    return {
        name: group
        for name, group in all_groups.items()
        if isinstance(group, dict) and group.get("weights") is not None
    }


def differences(found: Any, wanted: dict[str, Any]) -> Iterator[str]:
    """Yield the differences of a quantization's arguments from `wanted`, where a tuple lists the allowed values."""
    if not isinstance(found, dict):
        yield f" is {quoted(found)}, expected an object with the arguments of a quantization"
        return
    for key, expected in wanted.items():
        value, allowed = found.get(key), expected if isinstance(expected, tuple) else (expected,)
        # The types too: in Python 1 == True.
        if not any(value == option and type(value) is type(option) for option in allowed):
            yield f": {key} is {quoted(value)}, expected {' or '.join(map(repr, allowed))}"


def group_of(own: dict[str, Any], module: str) -> dict[str, Any] | None:
    """Return the group of a linear: one that names it, else one for all linears; None without either."""
    groups = linear_groups(own).values()
    named = (group for group in groups if any(matches(target, module) for target in group["targets"]))
    return next(named, next((group for group in groups if "Linear" in group["targets"]), None))


def matches(pattern: str, module: str) -> bool:
    """Tell whether a pattern, a name or `re:` and a regular expression, matches this module."""
    if not pattern.startswith("re:"):
        return pattern == module
    try:  # re.match as in compressed-tensors: the name may continue after the match
        return re.match(pattern.removeprefix("re:"), module) is not None
    except (re.error, OverflowError, RecursionError):  # the pattern comes from an untrusted file
        return False


def quoted(value: Any) -> str:
    """Return the repr of a value, cut to the length that fits a message."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."
