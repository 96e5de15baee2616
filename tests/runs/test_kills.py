"""Tests that a run killed at any moment resumes to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (12, 1),
        *(pytest.param(50, seed, marks=pytest.mark.kills) for seed in (2, 3)),
        *(pytest.param(200, seed, marks=pytest.mark.sweeps) for seed in (4, 5)),
    ],
)
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path, kills: int, seed: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.runs.kills", tmp_path, str(kills), str(seed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    assert done["problems"] == [], "\n\n".join(done["problems"])
    assert kills <= done["kills"] < kills + 3 and done["fresh"] >= kills // 12
    # Many of them after the first layer, and at the very end.
    assert done["with visits"] > kills // 6
    assert min(done.get("finishing", 0), done.get("published", 0)) >= kills // 40
