"""`fa3 verify`: will an engine load this export?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fa3cli.cli.console import note, print_json

if TYPE_CHECKING:
    from fa3cli.export.verification import CheckResult, VerificationReport

__all__ = ["verify"]


def verify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT_DIR", help="Folder that fa3 quantize wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report as json.")] = False,
) -> None:
    """Check an export against what inference engines look for; exit 1 if they would stumble."""
    from fa3cli.export.verification import verify_export

    report = verify_export(export)
    if json:
        print_json(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: VerificationReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "result", "why it matters")
    found = Counter(finding.check for finding in report.findings)
    for check in report.checks:
        table.add_row(check.name, _result(check, found[check.name]), check.reason)
    Console().print(table)
    # Plain lines: a rich table would cut the names, and logs are searched for them.
    for finding in report.findings:
        print(f"{finding.severity}: {finding.subject} {finding.message} [{finding.check}]")
    errors = sum(finding.severity == "error" for finding in report.findings)
    note(f"{report.folder}: {errors} errors, {len(report.findings) - errors} warnings")


def _result(check: CheckResult, found: int) -> str:
    if check.blocked_by:
        return f"not run, needs {', '.join(check.blocked_by)}"
    if not check.checked and not check.skipped:
        return "nothing to check"
    result = check.status if not found else "1 finding" if found == 1 else f"{found} findings"
    return f"{result}, {check.skipped} skipped" if check.skipped else result
