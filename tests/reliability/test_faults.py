"""Tests that after a failed system call or a kill a folder is unchanged or complete, and the same command succeeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.scenes import ROOT

FAULTS = [sys.executable, "-m", "tests.reliability.faults"]
NO_COMPILER = 3


def test_a_sample_of_faults_and_kills_has_no_failures(scenes: Path) -> None:
    command = [*FAULTS, "--share", "0.02", "--processes", "1", "--scenes", scenes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == NO_COMPILER:
        pytest.skip("no C compiler for the library that makes calls fail")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "failures 0" in done.stdout.splitlines()[-1]


@pytest.mark.faults
def test_all_faults_and_kills_have_no_failures() -> None:
    code = subprocess.run(FAULTS, cwd=ROOT, check=False).returncode
    if code == NO_COMPILER:
        pytest.skip("no C compiler for the library that makes calls fail")
    assert code == 0
