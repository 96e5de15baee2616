"""Reads recipes, which are named settings: the guide's for its verified models, or a user's TOML file."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError, UnsupportedError, UsageError
from fa3cli.files.documents import parse_toml, typed
from fa3cli.files.reading import read_bytes
from fa3cli.quantization.settings import QuantSettings, pairs, require_valid

__all__ = ["Recipe", "choose_recipe", "shipped_recipes"]

_FOLDER = Path(__file__).parents[1] / "data" / "recipes"
_CHOICES = {"include_names", "scheme", "schemes"}
_SETTINGS = [field.name for field in fields(QuantSettings)]


@dataclass(frozen=True)
class Recipe:
    """A name, the settings that differ from the defaults, and the model types that use it by default."""

    name: str
    settings: dict[str, Any]
    model_types: tuple[str, ...] = ()


NONE = Recipe("none", {})


def shipped_recipes() -> dict[str, Recipe]:
    """Return the recipes that come with fa3, by name."""
    recipes = (_read(file, file.stem) for file in sorted(_FOLDER.glob("*.toml")))
    return {recipe.name: recipe for recipe in (NONE, *recipes)}


def choose_recipe(name: str | None, model_type: str, linears: Sequence[str], *, default: str = "default") -> Recipe:
    """Return the recipe of that name or file; without a name the model type's recipe, else the `default` one.

    A recipe chosen without a name drops disable_names that select no linear. If all of them are dropped (a model without
    any down_proj), the recipe "none" is used instead, unless the recipe chooses linears or schemes by other settings.
    """
    shipped = shipped_recipes()
    if name is None:
        fitting = (recipe for recipe in shipped.values() if model_type in recipe.model_types)
        found = next(fitting, shipped[default])
        patterns = found.settings.get("disable_names", ())
        names = tuple(pattern for pattern in patterns if fnmatch.filter(linears, pattern.removeprefix("!")))
        if names == patterns:
            return found
        if not names and found.settings.keys().isdisjoint(_CHOICES):
            return NONE
        return replace(found, settings={**found.settings, "disable_names": names})
    if name in shipped:
        return shipped[name]
    if name.endswith(".toml"):
        return _read(Path(name), name)
    raise UnsupportedError(
        f"no recipe named {name!r}", hint=f"recipes: {', '.join(shipped)}, or a file that ends in .toml"
    )


def _read(file: Path, name: str) -> Recipe:
    """Read a recipe; raises InvalidInputError if the file is not a valid recipe."""
    try:
        table = parse_toml(read_bytes(file))
        # Removed from the table: all other keys must be settings.
        model_types = typed(table.pop("model_types", []), tuple[str, ...])
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InvalidInputError(f"{file}: not TOML, or not a recipe ({error})") from None
    for key in table:
        if key not in _SETTINGS:
            near = get_close_matches(key, _SETTINGS, n=1)
            raise InvalidInputError(
                f"{file}: {key!r:.60} is not a setting",
                hint=f"did you mean {near[0]}?" if near else f"settings: {', '.join(_SETTINGS)}",
            )
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    if "schemes" in settings:
        settings["schemes"] = pairs(settings["schemes"])
    try:
        require_valid(replace(QuantSettings(), **settings))
    except UsageError as error:
        raise InvalidInputError(f"{file}: {error}", hint=error.hint) from None
    return Recipe(name, settings, model_types)
