"""Provides a fixture that changes an export and compares the checks that find the change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fa3cli.exports.checks.registry import Severity
from fa3cli.exports.verification import Finding, verify_export
from tests.exports.exports import SMALL, Export

# Golden cases have no tokenizer and no `quantize` in config.json; both models are small.
_BEFORE = SMALL | {"tokenizer", "config-quantize"}


@pytest.fixture
def found_by(export: Export) -> Callable[..., list[Finding]]:
    """Return a function that applies a mutation; all new findings must be of one check and severity."""

    def spoil(check: str, mutation: Callable[[Export], None], severity: Severity = "error") -> list[Finding]:
        mutation(export)
        findings = verify_export(export.folder).findings
        new = [finding for finding in findings if finding.check not in _BEFORE - {check}]
        assert {(finding.check, finding.severity) for finding in new} == {(check, severity)}, new
        return new

    return spoil
