"""What a run was asked to do: the guide's parameters, resolved from recipe and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from fa3cli.errors import InvalidInputError, UnsupportedError, UsageError

__all__ = ["QuantSettings", "matching", "resolve_settings"]


@dataclass(frozen=True)
class QuantSettings:
    """The guide's parameters; the defaults are those of the guide's tool without a recipe."""

    w_bit: int = 8
    a_bit: int = 8
    act_method: int = 1
    anti_method: str = "none"
    disable_names: tuple[str, ...] = ()
    disable_level: str = "L0"
    disable_last_linear: bool = True
    mm_tensor: bool = False
    fa: bool = True
    fa_amp: int = 0
    fa_score: str = "reference"
    numerics: str = "improved"
    target: str = "modelslim"


# What this version implements of each parameter; anything else is refused before any work.
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "w_bit": (8,),
    "a_bit": (8,),
    "act_method": (1,),
    "anti_method": ("none",),
    "disable_level": ("L0",),
    "disable_last_linear": (True,),
    "mm_tensor": (False,),
    "fa_score": ("reference",),
    "numerics": ("improved",),
    "target": ("modelslim",),
}


def resolve_settings(recipe: QuantSettings, options: dict[str, Any]) -> QuantSettings:
    """Replace the recipe's values by the options that were given (not None); refuse what isn't implemented."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = replace(recipe, **given)
    for field in fields(settings):
        value, supported = getattr(settings, field.name), _SUPPORTED.get(field.name)
        if supported and value not in supported:
            raise UnsupportedError(
                f"{field.name}={value} is not supported by this version of fa3",
                hint=f"supported: {', '.join(map(str, supported))}",
            )
    if settings.fa_amp < 0:
        raise UsageError(
            f"fa_amp is {settings.fa_amp}; expected the number of layers to fall back, 0 or more"
        )
    return settings


def matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Return the module names that `patterns` (exact names or globs) select; one that selects none is an error."""
    selected: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            from difflib import get_close_matches

            near = get_close_matches(pattern, names, n=3, cutoff=0.4)
            raise InvalidInputError(
                f"disable_names: {pattern!r} matches no linear and no attention module of the model",
                hint=f"the nearest names are {', '.join(near)}" if near else None,
            )
        selected |= found
    return selected
