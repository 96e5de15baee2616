"""Defines `fa3 doctor`, which shows what this machine has and which commands work on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from fa3cli.cli.console import print_json
from fa3cli.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from fa3cli.doctor import Diagnosis

__all__ = ["doctor"]


def doctor(json: Json = False) -> None:
    """Show what this machine has and which commands work here; exit 6 if quantize does not."""
    from fa3cli.doctor import diagnose

    diagnosis = diagnose()
    if json:
        print_json(diagnosis)
    else:
        _show(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(6)


def _show(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    machine, commands = Table("machine", "found"), Table("command", "works", "why")
    for name, found in _facts(diagnosis):
        machine.add_row(name, found)
    for command in diagnosis.commands:
        commands.add_row(command.name, "yes" if command.works else "no", command.reason)
    for table in (machine, _packages(diagnosis), commands):
        Console().print(table)


def _packages(diagnosis: Diagnosis) -> Table:
    from rich.table import Table

    table = Table("package", "found", "needed", "verdict")
    for package in diagnosis.packages:
        verdict = package.problem or package.remark or "fine"
        table.add_row(package.name, package.version or "-", package.required, verdict)
    return table


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    memory = diagnosis.memory_free
    flags = f", {' '.join(diagnosis.cpu_flags)}" if diagnosis.cpu_flags else ""
    return [
        ("python", diagnosis.python),
        ("system", diagnosis.system),
        ("cpu", f"{diagnosis.cpus} threads{flags}"),
        ("free memory", "unknown" if memory is None else _gigabytes(memory)),
        ("free disk", f"{_gigabytes(diagnosis.disk_free)} for {diagnosis.folder}"),
        ("CANN", diagnosis.cann or "not found"),
        *(
            (device.kind, device.problem or ", ".join(device.names))
            for device in diagnosis.devices
            if device.kind != "cpu"
        ),
    ]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
