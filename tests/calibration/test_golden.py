"""The reference's exports made anew, bit for bit, under the transformers version they were made with (`make versions`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.golden import ABSENT, GOLDEN
from tests.patching.matrix.environments import ROOT, command, variables

VERSION = "4.43.1"
# Samples of several sequences: the reference mixes their heads (NUMERICS.md), so q, k and v have other scales.
BATCHED = ("batch2", "pad")


def found(root: Path, names: list[str]) -> dict[str, dict]:
    """What differs from the reference, by case; the test is skipped if the environment isn't here."""
    try:
        call = command(VERSION, "tests.calibration.golden_exports", root, *names)
    except FileNotFoundError as error:
        pytest.skip(f"{error} (make versions)")
    done = subprocess.run(
        call, cwd=ROOT, env=variables(root / "modules"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@ABSENT
@pytest.mark.versions
def test_every_golden_export_is_made_again_bit_for_bit(tmp_path: Path) -> None:
    names = [case["name"] for case in json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]]
    differing = found(tmp_path, names)
    assert differing.keys() == set(names) and len(names) == 37
    for name, differences in differing.items():
        assert differences["description"], name
        if any(f"_{inputs}_" in name for inputs in BATCHED):
            assert differences["tensors"], name
            assert all(".fa_" in tensor and tensor.endswith(".scale") for tensor in differences["tensors"])
        else:
            assert differences["tensors"] == [], name
        for file, tensors in differences.items():
            if file.endswith(".npy"):
                assert_numpy(name, file, tensors)


def assert_numpy(name: str, file: str, differing: list[str] | None) -> None:
    """Only what the reference gets wrong may differ in numpy files (NUMERICS.md, CONTRACT.md)."""
    if file == "anti_fp_norm.npy" and "anti" not in name:
        assert differing is None  # it puts the norms there without AntiOutlier too; ours are in quant_weight
    elif file == "quant_weight.npy":
        # It lets a bias take the place of its weight, and a norm's of AntiOutlier's.
        kinds = ("norm", ".q_proj", ".k_proj", ".v_proj", ".bias")
        assert not [each for each in differing if not any(kind in each for kind in kinds)], name
    else:
        assert differing == [], (name, file)
