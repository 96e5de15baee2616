"""Defines checks, and registers them in `CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fa3cli.exports.contents import Contents
from fa3cli.exports.limits import LIMITS
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
    "limited",
    "warning",
]

Severity = Literal["error", "warning"]

ALL = tuple(TARGETS)
ASCEND = tuple(name for name, target in TARGETS.items() if target.description_files)
LANGUAGE = tuple(name for name, target in TARGETS.items() if not target.pipelines)
ASCEND_LANGUAGE = tuple(name for name in ASCEND if name in LANGUAGE)


class Remark(NamedTuple):
    """A problem that a check yields; `subject` is the tensor, module or file."""

    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True)
class Check:
    """One check of an export, for `targets`.

    `reason` says in one line how an engine fails otherwise. `over` lists the tensors or modules to check,
    with one call of `run` per item; without it, `run` checks the whole export once. The check does not run
    if a check in `needs` found an error. It skips every item for which a check in `after`, or a check
    before that one, found an error.
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
    """Register a check; the checks in `needs` and `after` must be registered before it."""
    unknown = [other for other in needs + after if other not in CHECKS]
    if unknown or name in CHECKS:
        raise ValueError(f"check {name}: registered twice, or before {', '.join(unknown)}")

    # Transitive: items that an earlier check skipped are skipped like items with errors.
    all_after = tuple(dict.fromkeys(part for other in after for part in (other, *CHECKS[other].after)))

    def register(run: Callable[..., Iterator[Remark]]) -> Callable[..., Iterator[Remark]]:
        CHECKS[name] = Check(name, reason, run, targets, over, needs, all_after)
        return run

    return register


def error(subject: str, message: str) -> Remark:
    """Return a remark for an export that does not load, or loads incorrectly."""
    return Remark("error", subject, message)


def warning(subject: str, message: str) -> Remark:
    """Return a remark for a valid export that some engine refuses, or that is probably incomplete."""
    return Remark("warning", subject, message)


def error_for(targets: tuple[str, ...], contents: Contents, subject: str, message: str) -> Remark:
    """Return an error for the engines of these targets, a warning for others."""
    return Remark("error" if contents.target.name in targets else "warning", subject, message)


def limited(name: str, contents: Contents, subject: str, found: str) -> Iterator[Remark]:
    """Report a limit of the target's engine, if it has it: an error if the engine refuses the export, else a warning."""
    if (verdict := LIMITS[name].says.get(contents.target.name)) is None:
        return
    message = f"{found}: {verdict.why}" + (f"; {verdict.hint}" if verdict.refuses else "")
    yield Remark("error" if verdict.refuses else "warning", subject, message)
