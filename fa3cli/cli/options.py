"""Builds the parameters of commands from the dataclasses of options, so that each option is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, EnumMeta
from functools import wraps
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from fa3cli.options import TRUST_REMOTE_CODE, Option, declared
from fa3cli.runs.options import PIPELINES

__all__ = ["ExportDir", "Json", "JsonLines", "Nproc", "TrustRemoteCode", "choices", "with_options"]

Options = TypeVar("Options")
Nproc = Annotated[int, typer.Option(min=1, metavar="N", help="Run as N processes, as torchrun does.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as json.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print progress and result as json, one object per line.")]
ExportDir = Annotated[Path, typer.Argument(metavar="EXPORT_DIR", help="Folder that fa3 quantize or fa3 export wrote.")]
TrustRemoteCode = Annotated[bool, typer.Option(TRUST_REMOTE_CODE.flags, help=TRUST_REMOTE_CODE.help)]


def with_options(
    kind: Callable[..., Options], *, without: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of a dataclass `kind` and further parameters into a command with one parameter per field.

    `without` names groups of fields that the command does not offer. A parameter of the function replaces the field of
    its name.
    """

    hidden = frozenset(without)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        taken = [parameter.name for parameter in own]
        offered = [name for name, option in declared(kind).items() if option.group not in hidden and name not in taken]
        parameters = [*_parameters(kind, offered), *own]

        @wraps(function)
        def command(**given: Any) -> None:
            options = kind(**{name: _value(given[name]) for name in offered})
            function(options, **{name: given[name] for name in taken})

        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def choices(name: str, values: Iterable[str]) -> type[Enum]:
    """Return a type whose values typer offers as choices."""
    make: EnumMeta = Enum  # typed as EnumMeta: a call with names makes a class, not a member
    return make(name, {value.replace("-", "_"): value for value in values}, type=str)


def _value(given: Any) -> Any:
    """Convert a value from typer for the dataclass: choices to texts, an empty list to None."""
    if isinstance(given, list):
        return list(map(_value, given)) or None
    return given.value if isinstance(given, Enum) else given


def _parameters(kind: Callable[..., Any], names: Iterable[str]) -> list[inspect.Parameter]:
    """Return the parameters of a command for fields of the dataclass `kind`."""
    hints, defaults = get_type_hints(kind), inspect.signature(kind).parameters
    return [_parameter(name, declared(kind)[name], hints[name], defaults[name].default) for name in names]


def _parameter(name: str, option: Option, hint: Any, default: Any) -> inspect.Parameter:
    help = f"Pipelines: {option.help}" if option.group == PIPELINES else option.help
    offer: Any
    if option.argument:
        offer = typer.Argument(metavar=name.upper(), help=help)
    else:
        flags = [option.flags] if option.flags else []
        offer = typer.Option(*flags, help=help, metavar=option.metavar, min=option.minimum)
    one = _type_for_typer(name, hint, option.choices)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[one, offer])


def _type_for_typer(name: str, hint: Any, values: Sequence[str]) -> Any:
    """Return the type of a field as typer reads it: one type, or a list of one, or None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    one = choices(name, values) if values else Path if Path in parts else str if str in parts else parts[0]
    if Sequence[str] in parts:
        one = GenericAlias(list, one if values else str)
    return one | None if NoneType in parts else one
