"""Describes options: each is declared once, as a field of a dataclass that commands and Python functions are made from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

from fa3cli.errors import UsageError

__all__ = ["TRUST_REMOTE_CODE", "Count", "File", "Option", "Texts", "TrustRemoteCode", "declared", "entries", "takes"]

P = ParamSpec("P")
Options = TypeVar("Options")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line: help text, flags, limits, choices."""

    help: str
    flags: str = ""
    metavar: str | None = None
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    group: str = ""
    argument: bool = False


Count = int | None
File = str | Path | None
Texts = Sequence[str] | None
TRUST_REMOTE_CODE = Option("Run Python code of the weights folder.", "--trust-remote-code")
TrustRemoteCode = Annotated[bool, TRUST_REMOTE_CODE]


@cache
def declared(kind: type) -> Mapping[str, Option]:
    """Return the fields of a dataclass that the command line offers, in order."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ())[-1:] for name, hint in hints.items()}
    return {name: option[0] for name, option in found.items() if option}


def entries(given: Texts) -> tuple[str, ...]:
    """Return the texts that were given; a single text is one entry, not a sequence of its letters."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def takes(kind: Callable[P, Options]) -> Callable[[Callable[[Options], Result]], Callable[P, Result]]:
    """Turn a function of one dataclass `kind` into a function of its fields, for type checkers and help() too.

    The function raises UsageError for an unknown name.
    """
    signature = inspect.signature(kind)

    def decorate(function: Callable[[Options], Result]) -> Callable[P, Result]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            _refuse_unknown(kwargs, list(signature.parameters))
            return function(kind(*args, **kwargs))

        vars(call)["__signature__"] = signature
        return call

    return decorate


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}"
            raise UsageError(f"unknown option {name!r}", hint=hint)
