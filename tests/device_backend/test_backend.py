"""Runs the checks of the test device in a separate process."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.device_backend.build import reason_to_skip
from tests.device_backend.process import Call, call_apart

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

# Parsed, not imported: an import would register the device in this process.
CHECKS = [
    node.name
    for node in ast.parse(Path(__file__).with_name("checks.py").read_text()).body
    if isinstance(node, ast.FunctionDef)
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    calls = [Call(f"checks.{name}") for name in CHECKS]
    return dict(zip(CHECKS, call_apart(calls, tmp_path_factory.mktemp("checks"))))


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_of_the_test_device_passes(name: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[name] is None, outcomes[name]
