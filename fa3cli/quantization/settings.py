"""Resolves a run's settings, the guide's parameters, from recipe and options."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.quantization.schemes import DYNAMIC, SCHEMES, STATIC

__all__ = [
    "LANGUAGE_SETTINGS",
    "PIPELINE_SETTINGS",
    "QuantSettings",
    "ResolvedSettings",
    "SettingsOf",
    "pairs",
    "require_valid",
    "resolve_settings",
]


@dataclass(frozen=True)
class QuantSettings:
    """The guide's parameters; the defaults are the defaults of the guide's tool."""

    w_bit: int = 8
    a_bit: int = 8
    scheme: str = STATIC.name
    schemes: tuple[tuple[str, str], ...] = ()
    """Other schemes for some linears: pairs of a glob and a scheme, of which the last match applies."""
    act_method: int = 1
    anti_method: str = "none"
    include_names: tuple[str, ...] = ()
    disable_names: tuple[str, ...] = ()
    disable_level: str = "L0"
    disable_last_linear: bool = True
    pr: float = 1.0
    w_sym: bool = True
    mm_tensor: bool = False
    fa: bool = True
    fa_amp: int = 0
    fa_score: str = "reference"
    numerics: str = "improved"

    @property
    def reference(self) -> bool:
        """Whether the results must equal the reference's, bit for bit."""
        return self.numerics == "reference"

    @property
    def level(self) -> int:
        """Number of linears that disable_level leaves float."""
        return int(self.disable_level[1:])


@dataclass(frozen=True)
class SettingsOf:
    """The settings of a kind of model: the defaults, and the values that this version implements."""

    defaults: QuantSettings
    supported: Mapping[str, tuple[object, ...]]


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings, and the origin of each value: an option, the recipe or the default."""

    values: QuantSettings
    origins: Mapping[str, str]


_COMMON: dict[str, tuple[object, ...]] = {
    "w_bit": (8,),
    "a_bit": (8,),
    "pr": (1.0,),
    "w_sym": (True,),
    "fa_score": ("reference", "error"),
}
LANGUAGE_SETTINGS = SettingsOf(
    QuantSettings(),
    {
        **_COMMON,
        "scheme": tuple(SCHEMES),
        "act_method": (1, 2, 3),
        "anti_method": ("none", "m1", "m2", "m3", "m4", "m5", "m6"),
        "numerics": ("improved", "reference"),
    },
)
# For diffusion transformers, the guide's tool supports FA3 only with dynamic linears, which have no range to choose; its
# numerics confuse tokens with heads there, so "reference" is not supported.
PIPELINE_SETTINGS = SettingsOf(
    QuantSettings(scheme=DYNAMIC.name, disable_last_linear=False),
    {
        **_COMMON,
        "scheme": (DYNAMIC.name,),
        "schemes": ((),),
        "act_method": (1,),
        "anti_method": ("none",),
        "disable_level": ("L0",),
        "disable_last_linear": (False,),
        "mm_tensor": (False,),
        "numerics": ("improved",),
    },
)
_LEVEL = re.compile("L(0|[1-9][0-9]{0,8})")


def resolve_settings(
    recipe: Mapping[str, Any],
    options: Mapping[str, Any],
    recipe_name: str = "recipe",
    kind: SettingsOf = LANGUAGE_SETTINGS,
) -> ResolvedSettings:
    """Override the defaults with a recipe's values, and both with the given (not None) options.

    Raises UnsupportedError for a value that is not implemented, UsageError for an invalid value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    settings = replace(kind.defaults, **{**recipe, **given})
    require_valid(settings)
    for name, supported in kind.supported.items():
        value = getattr(settings, name)
        if value not in supported:
            pipelines = " for pipelines" if kind is PIPELINE_SETTINGS else ""
            raise UnsupportedError(
                f"{name}={value!s:.60} is not supported{pipelines} by this version of fa3",
                hint=f"supported: {', '.join(map(str, supported))}",
            )
    origins = {
        field.name: "option" if field.name in given else recipe_name if field.name in recipe else "default"
        for field in fields(settings)
    }
    return ResolvedSettings(settings, origins)


def pairs(schemes: Any) -> Any:
    """Return `schemes` of a script or a document, a table or a list of pairs, as a tuple of pairs."""
    # A script or a recipe gives a table; json has a list of lists in place of a tuple of tuples.
    given = schemes.items() if isinstance(schemes, Mapping) else schemes
    if not isinstance(given, Iterable) or isinstance(given, str):
        return given
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in given)


def require_valid(settings: QuantSettings) -> None:
    """Raise UsageError for a value of a wrong type or out of range."""
    for field in fields(settings):
        value, default = getattr(settings, field.name), field.default
        kinds = (int, float) if isinstance(default, float) else type(default)
        # bool is a subclass of int, so bool is compared separately.
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise UsageError(
                f"{field.name} is {value!r:.60}; expected {_KINDS[type(default)]}, as in {field.name}={default!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{field.name} is {value}; expected a finite number")
    for setting in ("include_names", "disable_names"):
        names = getattr(settings, setting)
        if not all(isinstance(name, str) for name in names):
            raise UsageError(f"{setting} is {names!r:.60}; expected module names or globs")
    for pair in settings.schemes:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[1] in tuple(SCHEMES)):
            raise UsageError(f"schemes holds {pair!r:.60}; expected a glob and one of {', '.join(SCHEMES)}")
    if not _LEVEL.fullmatch(settings.disable_level):
        raise UsageError(
            f"disable_level is {settings.disable_level!r:.60}; expected L and a number of linears, without leading zeros",
            hint="L0 leaves none float, L5 the five linears whose inputs are hardest to quantize",
        )
    if settings.fa_amp < 0:
        raise UsageError(f"fa_amp is {settings.fa_amp!r:.60}; expected the number of layers to fall back, 0 or more")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "several texts"}
