"""Defines `fa3 verify`, which checks whether an engine will load an export."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fa3cli.cli.console import note, print_json
from fa3cli.cli.options import ExportDir, Json, TrustRemoteCode, choices
from fa3cli.errors import UsageError
from fa3cli.exports.target_names import TARGET_NAMES

if TYPE_CHECKING:
    from fa3cli.comparing.images import ImageComparison
    from fa3cli.comparing.text import Comparison
    from fa3cli.exports.verification import CheckResult, VerificationReport

    _Target = Enum
else:  # typer reads the choices from the annotation
    _Target = choices("Target", TARGET_NAMES)

__all__ = ["verify"]


def verify(
    export: ExportDir,
    target: Annotated[
        list[_Target] | None,
        typer.Option(help="Engine that should load the export [the engine it was written for]; may be repeated."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="WEIGHTS_DIR", help="Compare with this float model or pipeline, on --eval.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="FILE",
            help="Data to compare on: text, as for --calib; for a pipeline prompts, as for --prompts.",
        ),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Cut lines of --eval to N tokens.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Check whether inference engines can load an export; exit 1 if one cannot."""
    from fa3cli import api
    from fa3cli.exports.targets import for_pipelines

    if (against is None) != (text is None):
        raise UsageError("--against and --eval need each other")
    report = api.verify(export, targets=[engine.value for engine in target or ()])
    images = any(for_pipelines(check.target) for check in report.checks)
    if images and max_length is not None:
        raise UsageError("--max-length is for text, but a pipeline is compared on prompts")
    comparison = None
    if report.ok and against is not None and text is not None:
        options = {"trust_remote_code": trust_remote_code} | ({} if images else {"max_length": max_length})
        comparison = _compare(export, against, text, images=images, **options)
    if json:
        print_json(asdict(report) | ({"comparison": asdict(comparison)} if comparison else {}))
    else:
        _show(report)
        if comparison:
            _show_comparison(comparison)
    if not report.ok:
        if against is not None:
            note("not compared with the float model: the export must pass its checks first")
        raise typer.Exit(1)


def _show(report: VerificationReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from fa3cli.report.wording import count

    found = Counter((finding.target, finding.check) for finding in report.findings)
    for target in dict.fromkeys(check.target for check in report.checks):
        table = Table(f"check for {target}", "result", "why it matters")
        for check in (check for check in report.checks if check.target == target):
            number = found[target, check.name]
            table.add_row(check.name, _result(check, number), check.reason if number else "")
        Console().print(table)
    # Plain lines: a rich table would cut the names, and people search logs for them.
    for finding in report.findings:
        print(f"{finding.severity}: {finding.subject} {finding.message} [{finding.target}: {finding.check}]")
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = count(len(report.findings) - errors, "warning")
    note(f"{report.folder}: {count(errors, 'error')}, {warnings} for target {report.target}")


def _compare(export: Path, against: Path, text: Path, *, images: bool, **options: Any) -> Comparison | ImageComparison:
    """Compare an export with its float model, and save the result in the export's report."""
    from fa3cli.api import compare, compare_images
    from fa3cli.cli.progress_bar import show_progress
    from fa3cli.comparing.kept import keep_comparison

    with show_progress("compare") as progress:
        comparison = (compare_images if images else compare)(export, against, text, progress=progress, **options)
    if problem := keep_comparison(export, comparison, text):
        note(f"the comparison is not saved in the export: {problem}")
    return comparison


def _show_comparison(comparison: Comparison | ImageComparison) -> None:
    from rich.console import Console

    from fa3cli.cli.report_tables import accuracy_table
    from fa3cli.comparing.images import ImageComparison
    from fa3cli.report.recorded import read_recorded
    from fa3cli.report.wording import measured_on

    if isinstance(comparison, ImageComparison):
        return _show_images(comparison)
    # Read as a report reads it from the export, so that both print the same.
    accuracy = read_recorded({"comparison": asdict(comparison)}).accuracy
    if accuracy:
        Console().print(accuracy_table(accuracy))
        note(measured_on(accuracy))


def _show_images(comparison: ImageComparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from fa3cli.report.wording import decibels

    table = Table("prompt", "PSNR")
    for number, psnr in enumerate(comparison.psnr, start=1):
        table.add_row(str(number), decibels(psnr))
    table.add_row("mean", decibels(comparison.mean_psnr))
    Console().print(table)
    note(f"values from 0 to 1 differ by {comparison.largest_difference:.3g} at most")


def _result(check: CheckResult, found: int) -> str:
    if check.blocked_by:
        return f"not run, needs {', '.join(check.blocked_by)}"
    if not check.checked and not check.skipped:
        return "nothing to check"
    result = check.status if not found else "1 finding" if found == 1 else f"{found} findings"
    return f"{result}, {check.skipped} skipped" if check.skipped else result
