"""Writes docs/cli.md, the reference of all commands and options: `python -m tests.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import EnumMeta as EnumType
from inspect import Parameter, getdoc, signature
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from typer.models import ArgumentInfo, OptionInfo

from fa3cli.cli.app import app

__all__ = ["parameters", "reference"]

_HEAD = """# Commands and options

Made by `python -m tests.cli.reference > docs/cli.md` from the declarations of the commands; a test compares the two.
Every command also has `--help`. Without a value in brackets, an option that is not given has no effect, or the recipe
decides.
"""


def reference() -> str:
    """The page's text."""
    commands = [command.callback for command in app.registered_commands]
    return _HEAD + "".join(part for command in commands for part in _command(command))


def parameters(command: Callable[..., None]) -> list[Parameter]:
    """The arguments and options of a command."""
    return list(signature(command, eval_str=True).parameters.values())


def _command(command: Callable[..., None]) -> Iterator[str]:
    arguments = [entry for entry in parameters(command) if isinstance(_offer(entry), ArgumentInfo)]
    usage = " ".join(["fa3", command.__name__, *map(_metavar, arguments), "[OPTIONS]"])
    yield f"\n## fa3 {command.__name__}\n\n{getdoc(command)}\n\n    {usage}\n"
    yield "\n| argument or option | meaning |\n|---|---|\n"
    for entry in parameters(command):
        yield f"| {_spelling(entry)} | {_meaning(entry)} |\n"


def _offer(entry: Parameter) -> ArgumentInfo | OptionInfo:
    return get_args(entry.annotation)[-1]


def _kind(entry: Parameter) -> Any:
    """The type of one value, without None and lists."""
    kind = get_args(entry.annotation)[0]
    while inner := [part for part in get_args(kind) if part is not NoneType]:
        kind = inner[0]
    return kind


def _metavar(entry: Parameter) -> str:
    name = _offer(entry).metavar or entry.name.upper()
    return name if entry.default is Parameter.empty else f"[{name}]"


def _spelling(entry: Parameter) -> str:
    offer, kind = _offer(entry), _kind(entry)
    if isinstance(offer, ArgumentInfo):
        return f"`{_metavar(entry)}`"
    # In Annotated, typer keeps the first flag as `default` until it builds the command.
    flag = offer.default if isinstance(offer.default, str) else f"--{entry.name.replace('_', '-')}"
    if kind is bool:
        return f"`{flag}`"
    if isinstance(kind, EnumType):
        values = [value.value for value in kind]
    else:
        values = (offer.metavar or _KINDS[kind]).split("|")
    return f"`{flag}` " + " or ".join(f"`{value}`" for value in values)


def _meaning(entry: Parameter) -> str:
    default = entry.default
    if default is Parameter.empty:
        return f"{_offer(entry).help} Required."
    shown = isinstance(default, (str, int)) and not isinstance(default, bool)
    return f"{_offer(entry).help} [{getattr(default, 'value', default)}]" if shown else _offer(entry).help


_KINDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}

if __name__ == "__main__":
    print(reference(), end="")
