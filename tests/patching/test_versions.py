"""Tests a sample of all families and modeling files under three transformers versions (`make versions`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.patching.matrix.environments import ROOT, command, variables
from tests.patching.matrix.measure import measure
from tests.patching.matrix.reversal import check_files, modeling_files

# Fused and separate projections, repeated and single heads, every kind of cache and of core, encoder-decoders,
# mixtures whose checkpoints are converted, latent attention where there is one.
FAMILIES = (
    "llama",
    "mixtral",
    "gpt_neox",
    "gpt2",
    "opt",
    "bert",
    "bart",
    "gemma2",
    "falcon",
    "phi3",
    "bloom",
)
SAMPLE = {
    "4.43.1": (*FAMILIES, "jetmoe"),
    "4.57.6": (*FAMILIES, "deepseek_v3"),
    "5.23.0": (*FAMILIES, "deepseek_v3"),
}
VERSIONS = tuple(SAMPLE)


def python(version: str, module: str, *arguments: object) -> list[str]:
    """The command that runs a module under a transformers version; skips the test without its environment."""
    try:
        return command(version, module, *arguments)
    except FileNotFoundError as error:
        pytest.skip(f"{error} (make versions)")


def run(version: str, module: str, side: str, folder: Path, *arguments: object) -> dict:
    """Run one side of a comparison and return its json from stdout."""
    call = python(version, module, side, folder, *arguments)
    own = variables(folder / f"modules-{side}")
    done = subprocess.run(call, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_patched_models_compute_the_same_as_native_models(version: str, tmp_path: Path) -> None:
    python(version, "tests")
    found = measure(version, SAMPLE[version], tmp_path)
    assert {name: (outcome.kind, outcome.reason) for name, outcome in found.items()} == dict.fromkeys(
        SAMPLE[version], ("equal", "")
    )
    assert all(outcome.checks >= 20 for outcome in found.values())


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_the_patch_of_every_eighth_modeling_file_can_be_reversed(version: str) -> None:
    require_reversible(version, step=8)


@pytest.mark.sweeps
@pytest.mark.parametrize("version", VERSIONS)
def test_the_patch_of_every_modeling_file_can_be_reversed(version: str) -> None:
    require_reversible(version, step=1)


def require_reversible(version: str, step: int) -> None:
    python(version, "tests")
    found = check_files(modeling_files(version)[::step])
    assert found.wrong == ()
    assert found.patched > found.seen // 2
