"""`fa3 verify`: will an engine load this export?"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fa3cli.cli.console import note, print_json
from fa3cli.cli.options import TargetName, values
from fa3cli.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from fa3cli.calibration.evaluation import Comparison
    from fa3cli.exports.verification import CheckResult, VerificationReport

__all__ = ["verify"]


def verify(
    export: Annotated[
        Path, typer.Argument(metavar="EXPORT_DIR", help="Folder that fa3 quantize or fa3 export wrote.")
    ],
    target: Annotated[
        list[TargetName] | None,
        typer.Option(help="Engine that shall load it [the one it was written for]; may be repeated."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="WEIGHTS_DIR", help="Compare with this float model, on --eval.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--eval", metavar="FILE.jsonl", help="Text to compare on, as for --calib.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Cut lines of --eval to N tokens.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies in the weights folder.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as json.")] = False,
) -> None:
    """Check an export against what inference engines look for; exit 1 if they would stumble."""
    from fa3cli.exports.verification import verify_export

    if (against is None) != (text is None):
        raise UsageError("--against and --eval need each other")
    report = verify_export(export, values(target))
    compares = {check.target for check in report.checks} <= {"modelslim", "mindie"}
    comparison = None
    if report.ok and against is not None and compares:
        from fa3cli.api import compare
        from fa3cli.cli.progress import show_progress

        with show_progress("compare") as progress:
            comparison = compare(
                export,
                against,
                text,
                max_length=max_length,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
        _keep(export, comparison, text)
    if json:
        print_json(asdict(report) | ({"comparison": asdict(comparison)} if comparison else {}))
    else:
        _show(report)
        if comparison:
            _show_comparison(comparison)
    if against is not None and not compares:
        raise UnsupportedError(
            f"--against computes with exports for modelslim or mindie, not with one for {report.target}",
            hint="make one of those of the same calibration too",
        )
    if not report.ok:
        if against is not None:
            note("not compared with the float model: the export must be right first")
        raise typer.Exit(1)


def _show(report: VerificationReport) -> None:
    from rich.console import Console
    from rich.table import Table

    found = Counter((finding.target, finding.check) for finding in report.findings)
    for target in dict.fromkeys(check.target for check in report.checks):
        table = Table(f"check for {target}", "result", "why it matters")
        for check in (check for check in report.checks if check.target == target):
            count = found[target, check.name]
            table.add_row(check.name, _result(check, count), check.reason if count else "")
        Console().print(table)
    # Plain lines: a rich table would cut the names, and logs are searched for them.
    for finding in report.findings:
        print(f"{finding.severity}: {finding.subject} {finding.message} [{finding.target}: {finding.check}]")
    errors = sum(finding.severity == "error" for finding in report.findings)
    note(
        f"{report.folder}: {errors} errors, {len(report.findings) - errors} warnings for target {report.target}"
    )


def _keep(export: Path, comparison: Comparison, text: Path) -> None:
    from fa3cli.calibration.kept_comparison import keep_comparison

    if problem := keep_comparison(export, comparison, text):
        note(f"the comparison is not kept in the export: {problem}")


def _show_comparison(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    change = comparison.perplexity_quantized / comparison.perplexity_float - 1
    table = Table("on the text", "float", "quantized")
    table.add_row(
        "perplexity",
        f"{comparison.perplexity_float:.3f}",
        f"{comparison.perplexity_quantized:.3f} ({change:+.2%})",
    )
    table.add_row("KL divergence from float, nats a token", "", f"{comparison.kl_divergence:.2e}")
    table.add_row("same most likely token", "", f"{comparison.top1_agreement:.2%}")
    Console().print(table)
    note(
        f"{comparison.tokens} predicted tokens in {comparison.samples} samples, "
        f"{comparison.samples_cut} of them cut to the length the model takes"
    )


def _result(check: CheckResult, found: int) -> str:
    if check.blocked_by:
        return f"not run, needs {', '.join(check.blocked_by)}"
    if not check.checked and not check.skipped:
        return "nothing to check"
    result = check.status if not found else "1 finding" if found == 1 else f"{found} findings"
    return f"{result}, {check.skipped} skipped" if check.skipped else result
