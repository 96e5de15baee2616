"""fa3 and msModelSlim side by side on this machine: whatever the processor, every bit is the same (`make versions`)."""

from __future__ import annotations

import hashlib
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.export_files import WEIGHT_FILE
from tests.patching.matrix.environments import command, variables
from tests.runs.compared_exports import assert_same_bits, assert_same_layout, compare
from tests.runs.live_reference import SAMPLE, SIDES, SWEEP


def export(root: Path, cases: list[str]) -> None:
    """Let both sides make the cases at the same time; skip the test without the environment."""
    try:
        calls = [command("msmodelslim", "tests.runs.live_reference", side, root, *cases) for side in SIDES]
    except FileNotFoundError as error:
        pytest.skip(f"{error} (make versions; msmodelslim 26.1.0 must be had)")
    logs = [root / f"{side}.log" for side in SIDES]
    runs = [
        subprocess.Popen(call, cwd=root, env=variables(root / f"modules-{log.stem}"), stdout=out, stderr=out)
        for call, log in zip(calls, logs)
        for out in [log.open("w")]
    ]
    codes = [run.wait() for run in runs]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)


def assert_same(root: Path, cases: list[str]) -> None:
    ours, theirs = (root / side for side in SIDES)
    for case in cases:
        found = compare(ours / case, theirs / case)
        assert_same_layout(case, found)
        assert_same_bits(case, found)


@pytest.mark.versions
def test_a_sample_of_exports_equals_the_reference_bit_for_bit(tmp_path: Path) -> None:
    export(tmp_path, SAMPLE)
    assert_same(tmp_path, SAMPLE)
    seen = defaultdict(list)
    for case in SAMPLE:
        weights = (tmp_path / "msmodelslim" / case / WEIGHT_FILE).read_bytes()
        seen[hashlib.sha256(weights).hexdigest()].append(case)
    assert [cases for cases in seen.values() if len(cases) > 1] == []


@pytest.mark.sweeps
def test_exports_of_all_options_equal_the_reference_bit_for_bit(tmp_path: Path) -> None:
    for at in range(0, len(SWEEP), 60):
        root = tmp_path / str(at)
        root.mkdir()
        export(root, SWEEP[at : at + 60])
        assert_same(root, SWEEP[at : at + 60])
