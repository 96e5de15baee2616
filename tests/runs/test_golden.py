"""Tests that the reference's stored exports are reproduced, under the transformers version they were made with (`make versions`)."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.export_files import WEIGHT_FILE
from tests.golden import ABSENT, GOLDEN, made_here
from tests.patching.matrix.environments import ROOT, command, variables
from tests.processor import identity
from tests.runs.compared_exports import assert_same_bits, assert_same_layout

VERSION = "4.43.1"
# Samples of several sequences: the reference mixes their heads (docs/numerics.md), so q, k and v have other scales.
BATCHED = ("batch2", "pad")
pytestmark = [ABSENT, pytest.mark.versions, pytest.mark.xdist_group("golden")]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The differences from the reference, by case; skips the tests without the environment."""
    names = [case["name"] for case in json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]]
    root = tmp_path_factory.mktemp("golden")
    try:
        call = command(VERSION, "tests.runs.golden_exports", root, *names)
    except FileNotFoundError as error:
        pytest.skip(f"{error} (make versions)")
    done = subprocess.run(call, cwd=ROOT, env=variables(root / "modules"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == set(names) and len(names) == 37
    return found


def test_every_golden_export_has_the_same_tensors_and_description(differences: dict[str, Any]) -> None:
    """On any processor."""
    for name, found in differences.items():
        assert_same_layout(name, found)


def test_every_golden_export_is_reproduced_bit_for_bit(differences: dict[str, Any]) -> None:
    if not made_here():
        pytest.skip(f"the stored bits are another processor's than {identity()}")
    for name, found in differences.items():
        batched = any(f"_{inputs}_" in name for inputs in BATCHED)
        of_heads = [f".fa_{role}.scale" for role in "qkv"] if batched else []
        assert_same_bits(name, found, of_heads)
        assert bool(found["tensors"][WEIGHT_FILE]["bits"]) == batched, name
