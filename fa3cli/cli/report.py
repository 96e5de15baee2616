"""Defines `fa3 report`, which shows an export in the terminal or as a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.console import note, print_json, warn
from fa3cli.cli.options import ExportDir, Json

__all__ = ["report"]


def report(
    export: ExportDir,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write one html page without other files; an older page is replaced, other files are not.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what an export holds: what is quantized and why not, scales per head, errors, settings, hashes."""
    from fa3cli.report.data import gather

    facts = gather(export)
    if html is not None:
        from fa3cli.report.page import write_page

        write_page(facts, html)
        for remark in facts.remarks:
            warn(remark)
        note(f"{html}: written")
    if json:
        print_json(facts)
    elif html is None:
        from fa3cli.cli.report_tables import print_facts

        print_facts(facts)
