"""Builds the parameters of commands from RunOptions, so that each option is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import Enum, EnumMeta
from functools import wraps
from types import GenericAlias
from typing import Annotated, Any, get_type_hints

import typer

from fa3cli.runs.options import PIPELINES, RunOptions, declared

__all__ = ["Json", "Nproc", "choices", "with_options"]

Nproc = Annotated[int, typer.Option(min=1, metavar="N", help="Run as N processes, as torchrun does.")]
Json = Annotated[bool, typer.Option("--json", help="Print progress and result as JSON, one object per line.")]


def with_options(names: Iterable[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of RunOptions and further parameters into a command with one parameter per field.

    A parameter of the function replaces the field of its name.
    """

    names = frozenset(names)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        taken = [parameter.name for parameter in own]
        offered = [name for name in declared() if name in names and name not in taken]
        parameters = [*map(_parameter, offered), *own]

        @wraps(function)
        def command(**given: Any) -> None:
            options = {name: _value(given[name]) for name in offered}
            function(RunOptions.of(**options), **{name: given[name] for name in taken})

        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def choices(name: str, values: Iterable[str]) -> type[Enum]:
    """Return a type whose values typer offers as choices."""
    make: EnumMeta = Enum  # typed as EnumMeta: a call with names makes a class, not a member
    return make(name, {value.replace("-", "_"): value for value in values}, type=str)


def _value(given: Any) -> Any:
    """Convert a value from typer for RunOptions: a list of choices to texts, an empty list to None."""
    if not isinstance(given, list):
        return given
    return [entry.value if isinstance(entry, Enum) else entry for entry in given] or None


def _parameter(name: str) -> inspect.Parameter:
    """Return the parameter of a command for a field of RunOptions."""
    option, kind = declared()[name], get_type_hints(RunOptions)[name]
    if kind == tuple[str, ...] | None:
        kind = GenericAlias(list, choices(name, option.choices) if option.choices else str) | None
    help = f"Pipelines: {option.help}" if option.group == PIPELINES else option.help
    if option.argument:
        offer = typer.Argument(metavar=f"[{name.upper()}]", help=help)
    else:
        flags = [option.flags] if option.flags else []
        offer = typer.Option(*flags, help=help, metavar=option.metavar, min=option.minimum)
    default = next(field.default for field in fields(RunOptions) if field.name == name)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, offer])
