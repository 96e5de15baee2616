"""Verifies an export: runs all checks for the chosen targets, and collects their findings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fa3cli.exports.checks import CHECKS
from fa3cli.exports.checks.modules import float_names
from fa3cli.exports.checks.registry import Check, Severity
from fa3cli.exports.contents import Contents, modules_around, open_contents
from fa3cli.exports.expected_tensors import ExpectedTensors
from fa3cli.exports.recognition import recognize_target
from fa3cli.exports.targets import known_targets

__all__ = ["CheckResult", "Finding", "VerificationReport", "verify_export"]


Status = Literal["passed", "found", "not run"]


@dataclass(frozen=True)
class Finding:
    """A problem of `subject` (a tensor, module or file) for `target`."""

    target: str
    check: str
    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    `checked` counts the tensors or modules that were checked (1 for a check of the whole export), `skipped`
    those that an earlier check found broken; `blocked_by` names the failed checks that this check needs.
    """

    target: str
    name: str
    reason: str
    status: Status
    checked: int
    skipped: int
    blocked_by: tuple[str, ...]


@dataclass(frozen=True)
class VerificationReport:
    """All checks in the order they ran, and their findings; `ok` if no finding is an error.

    `target` names the targets, separated by commas.
    """

    folder: str
    target: str
    ok: bool
    checks: tuple[CheckResult, ...]
    findings: tuple[Finding, ...]


def verify_export(
    folder: Path,
    targets: Sequence[str] = (),
    float_model: Callable[[Path, Collection[str]], ExpectedTensors | None] = lambda _, __: None,
) -> VerificationReport:
    """Run all checks of `targets`, by default of the target for which the export was written.

    `float_model` returns what the export's float model needs, from the folder and the names of its tensors.
    Raises InvalidInputError if the folder is missing or holds no such export, UsageError for an unknown target.
    """
    folder = Path(folder)
    chosen = known_targets(targets) if targets else (recognize_target(folder),)
    results: list[CheckResult] = []
    findings: list[Finding] = []
    for contents in [open_contents(folder, target) for target in chosen]:
        if not contents.target.pipelines:
            contents = replace(contents, float_model=float_model(folder, float_names(contents)))
        done, found = _run_all(contents)
        results += done
        # Escaped only now: checks compare the subjects of earlier findings with the unescaped names.
        findings += map(_printable_finding, found)
    errors = any(finding.severity == "error" for finding in findings)
    names = ", ".join(target.name for target in chosen)
    return VerificationReport(str(folder), names, not errors, tuple(results), tuple(findings))


def _run_all(contents: Contents) -> tuple[list[CheckResult], list[Finding]]:
    """Run the checks of one target, in the order of registration."""
    results: list[CheckResult] = []
    findings: list[Finding] = []
    target = contents.target.name
    for check in CHECKS.values():
        if target not in check.targets:
            continue
        failed = {finding.check for finding in findings if finding.severity == "error"}
        # A check that did not run also blocks the checks that need it.
        failed |= {result.name for result in results if result.status == "not run"}
        blocked_by = tuple(name for name in check.needs if name in failed)
        if blocked_by:
            results.append(CheckResult(target, check.name, check.reason, "not run", 0, 0, blocked_by))
        else:
            results.append(_run(check, contents, findings))
    return results, findings


def _run(check: Check, contents: Contents, findings: list[Finding]) -> CheckResult:
    """Run one check, and append its findings to `findings`."""
    before, target = len(findings), contents.target.name
    if check.over is None:
        checked, skipped = 1, 0
        remarks = list(check.run(contents))
    else:
        items = list(check.over(contents))
        subjects = {finding.subject for finding in findings if _stops(finding, check)}
        enclosing = {part for subject in subjects for part in modules_around(subject)}
        # Skip modules that contain a broken tensor, and tensors of a broken module.
        usable = [item for item in items if item not in enclosing and subjects.isdisjoint(modules_around(item))]
        checked, skipped = len(usable), len(items) - len(usable)
        remarks = [remark for item in usable for remark in check.run(contents, item)]
    findings += [Finding(target, check.name, remark.severity, remark.subject, remark.message) for remark in remarks]
    status: Status = "found" if len(findings) > before else "not run" if skipped and not checked else "passed"
    return CheckResult(target, check.name, check.reason, status, checked, skipped, ())


def _stops(finding: Finding, check: Check) -> bool:
    return finding.severity == "error" and finding.check in check.after


def _printable_finding(finding: Finding) -> Finding:
    return replace(finding, subject=_printable(finding.subject), message=_printable(finding.message))


def _printable(text: str) -> str:
    """Escape control and unprintable characters: names come from the export and may hold terminal commands."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
