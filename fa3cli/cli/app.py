"""Registers the commands with typer; every command is a typed function in its own module."""

from __future__ import annotations

import typer

from fa3cli.cli.calibrate import calibrate
from fa3cli.cli.doctor import doctor
from fa3cli.cli.export import export
from fa3cli.cli.patch import patch
from fa3cli.cli.quantize import quantize
from fa3cli.cli.report import report
from fa3cli.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    help="FA3 quantization for Ascend: patch a model's attention, calibrate, export int8 weights and scales.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time of --help
)
for command in (patch, quantize, calibrate, export, verify, report, doctor):
    app.command()(command)
