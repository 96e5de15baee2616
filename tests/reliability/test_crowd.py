"""Tests that sixteen processes can patch, undo and check one folder at once, and eight can write one report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.scenes import ROOT, environment


def crowd(scenes: Path, folder: Path, seed: int) -> dict:
    (folder / str(seed)).mkdir()
    command = [sys.executable, "-m", "tests.reliability.crowd", scenes, folder / str(seed), str(seed)]
    env = environment(folder / "modules")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_concurrent_commands_leave_a_valid_folder(scenes: Path, tmp_path: Path) -> None:
    found = crowd(scenes, tmp_path, 0)
    assert found["problems"] == []
    assert sum(found["codes"].values()) == 16 * 6 + 8 * 3


@pytest.mark.faults
def test_many_rounds_of_concurrent_commands_have_no_problems(scenes: Path, tmp_path: Path) -> None:
    found = {seed: crowd(scenes, tmp_path, seed)["problems"] for seed in range(1, 20)}
    assert {seed: problems for seed, problems in found.items() if problems} == {}
