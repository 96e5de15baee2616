"""Reads from an export's report how the pipeline was sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.pipelines.sampling import Sampling
from fa3cli.runs.result import read_report

__all__ = ["recorded_sampling"]


def recorded_sampling(export: Path) -> tuple[str, str, Sampling]:
    """Return an export's component, its dtype, and its sampling without prompts.

    Raises InvalidInputError if these are missing in the report or invalid.
    """
    try:
        identity = read_report(export)["identity"]
        component, settings = identity["component"], dict(identity["sampling"])
        dtype = identity["dtype"].removeprefix("torch.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{export / REPORT_FILE} does not say how the pipeline was sampled ({error!r})",
            hint="fa3 quantize of a pipeline writes this report beside the weights",
        ) from error
    allowed: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("steps", "height", "width", "frames"), _is_count),
        "guidance": lambda value: isinstance(value, int | float) and math.isfinite(value),
        "seed": lambda value: isinstance(value, int),
    }
    given = {name: settings[name] for name in allowed if settings.get(name) is not None}
    # bool is a subclass of int, but true is no number of steps.
    wrong = [name for name, value in given.items() if isinstance(value, bool) or not allowed[name](value)]
    if wrong or not isinstance(component, str):
        name, value = (wrong[0], given[wrong[0]]) if wrong else ("component", component)
        raise InvalidInputError(f"{export / REPORT_FILE}: {name} is {value!r}, a value that fa3 never writes")
    return component, dtype, Sampling((), **given)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0
