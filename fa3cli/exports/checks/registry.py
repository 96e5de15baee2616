"""What a check is, and the list of all of them: a dict and a decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fa3cli.exports.contents import Contents
from fa3cli.exports.targets import TARGETS

__all__ = [
    "ALL",
    "ASCEND",
    "ASCEND_LANGUAGE",
    "CHECKS",
    "LANGUAGE",
    "Check",
    "Remark",
    "Severity",
    "check",
    "error",
    "error_for",
    "warning",
]

Severity = Literal["error", "warning"]

ALL = tuple(TARGETS)
ASCEND = tuple(name for name, target in TARGETS.items() if target.description_files)
LANGUAGE = tuple(name for name, target in TARGETS.items() if not target.pipelines)
ASCEND_LANGUAGE = tuple(name for name in ASCEND if name in LANGUAGE)


class Remark(NamedTuple):
    """What a check yields: `subject` is the tensor, module or file it speaks of."""

    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True)
class Check:
    """One question about an export for one of `targets`.

    `reason` says in a line what goes wrong in an engine otherwise. `over` lists the tensors or modules
    to look at, one call each; without it `run` looks at the whole export once. The check is not run if
    one of `needs` found an error, and leaves out every item for which one of `after` found one, or
    one of those that came before these.
    """

    name: str
    reason: str
    run: Callable[..., Iterator[Remark]]
    targets: tuple[str, ...]
    over: Callable[[Contents], Iterable[str]] | None
    needs: tuple[str, ...]
    after: tuple[str, ...]


CHECKS: dict[str, Check] = {}


def check(
    name: str,
    reason: str,
    *,
    targets: tuple[str, ...] = ASCEND,
    over: Callable[[Contents], Iterable[str]] | None = None,
    needs: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
) -> Callable[[Callable[..., Iterator[Remark]]], Callable[..., Any]]:
    """Register a check; the ones it names in `needs` and `after` must be registered before it."""
    unknown = [other for other in needs + after if other not in CHECKS]
    if unknown or name in CHECKS:
        raise ValueError(f"check {name}: registered twice, or before {', '.join(unknown)}")

    # What an earlier check left out is as little to be trusted as what it found.
    heeded = tuple(dict.fromkeys(part for other in after for part in (other, *CHECKS[other].after)))

    def register(run: Callable[..., Iterator[Remark]]) -> Callable[..., Iterator[Remark]]:
        CHECKS[name] = Check(name, reason, run, targets, over, needs, heeded)
        return run

    return register


def error(subject: str, message: str) -> Remark:
    """The export will not load, or loads wrong."""
    return Remark("error", subject, message)


def warning(subject: str, message: str) -> Remark:
    """The export is legal, but some engine refuses it or something is likely to be missed."""
    return Remark("warning", subject, message)


def error_for(targets: tuple[str, ...], contents: Contents, subject: str, message: str) -> Remark:
    """An error for the engines of these targets, a warning for the others."""
    return Remark("error" if contents.target.name in targets else "warning", subject, message)
