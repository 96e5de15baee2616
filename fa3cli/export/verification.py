"""Static verification: does an export hold what an engine will look for?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fa3cli.export.checks import CHECKS
from fa3cli.export.checks.registry import Check, Severity
from fa3cli.export.contents import Contents, modules_around, open_contents

__all__ = ["CheckResult", "Finding", "VerificationReport", "verify_export"]


@dataclass(frozen=True)
class Finding:
    """Something wrong with `subject`, a tensor, module or file."""

    check: str
    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True)
class CheckResult:
    """How one check ended.

    `checked` counts the tensors or modules looked at (1 for a check of the whole export), `skipped`
    those left out because an earlier check found them broken, `blocked_by` names the failed checks
    without which this one could not run at all.
    """

    name: str
    reason: str
    status: Literal["passed", "found", "not run"]
    checked: int
    skipped: int
    blocked_by: tuple[str, ...]


@dataclass(frozen=True)
class VerificationReport:
    """All checks in the order they ran, and everything they found; `ok` if nothing of it is an error."""

    folder: str
    ok: bool
    checks: tuple[CheckResult, ...]
    findings: tuple[Finding, ...]


def verify_export(folder: Path) -> VerificationReport:
    """Run every check on a safe_tensor export, one tensor in memory at a time.

    Raises InvalidInputError if the folder is missing or holds no such export.
    """
    contents = open_contents(Path(folder))
    results: dict[str, CheckResult] = {}
    findings: list[Finding] = []
    for check in CHECKS.values():
        failed = {finding.check for finding in findings if finding.severity == "error"}
        failed |= {name for name, result in results.items() if result.status == "not run"}
        blocked_by = tuple(name for name in check.needs if name in failed)
        if blocked_by:
            results[check.name] = CheckResult(check.name, check.reason, "not run", 0, 0, blocked_by)
        else:
            results[check.name] = _run(check, contents, findings)
    errors = any(finding.severity == "error" for finding in findings)
    return VerificationReport(str(folder), not errors, tuple(results.values()), tuple(findings))


def _run(check: Check, contents: Contents, findings: list[Finding]) -> CheckResult:
    """Run one check, adding to `findings`."""
    before = len(findings)
    if check.over is None:
        checked, skipped = 1, 0
        findings += [Finding(check.name, *remark) for remark in check.run(contents)]
    else:
        items = list(check.over(contents))
        subjects = {finding.subject for finding in findings if _stops(finding, check)}
        around = {part for subject in subjects for part in modules_around(subject)}
        # A broken tensor spoils the modules around it, a broken module the tensors in it.
        sound = [item for item in items if item not in around and subjects.isdisjoint(modules_around(item))]
        checked, skipped = len(sound), len(items) - len(sound)
        findings += [Finding(check.name, *remark) for item in sound for remark in check.run(contents, item)]
    status = "found" if len(findings) > before else "not run" if skipped and not checked else "passed"
    return CheckResult(check.name, check.reason, status, checked, skipped, ())


def _stops(finding: Finding, check: Check) -> bool:
    return finding.severity == "error" and finding.check in check.after
