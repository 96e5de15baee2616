"""Spoil an export in one way and see which checks find it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fa3cli.exports.checks.registry import Severity
from fa3cli.exports.verification import Finding, verify_export
from tests.exports.exports import SMALL, Export

# A copy of a golden case lacks what only our exports have, and both models are small.
_BEFORE = SMALL | {"tokenizer", "config-quantize"}


@pytest.fixture
def found_by(export: Export) -> Callable[..., list[Finding]]:
    """Apply a mutation; its findings must all be of this check and severity."""

    def spoil(check: str, mutation: Callable[[Export], None], severity: Severity = "error") -> list[Finding]:
        mutation(export)
        findings = verify_export(export.folder).findings
        new = [finding for finding in findings if finding.check not in _BEFORE - {check}]
        assert {(finding.check, finding.severity) for finding in new} == {(check, severity)}, new
        return new

    return spoil
