"""Whole tiny pipelines from `fa3 patch` to the images of their exports, also under older diffusers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.patching.diffusion.environments import cases, python
from tests.patching.matrix.environments import ROOT, variables

# pipeline -> the attention modules of each of its transformers, and the calls of all for a step of a prompt
PIPELINES = {"flux": (4, 1), "cogvideox": (2, 1), "hunyuan": (4, 1), "qwenimage": (2, 1), "wan": (4, 2)}
# The first of VERSIONS that has one: Wan with two transformers.
SINCE = {"hunyuan": "0.33.1", "qwenimage": "0.35.2", "wan": "0.35.2"}
SAMPLE = {
    *((None, name) for name in ("flux", "hunyuan", "wan")),
    *(("0.31.0", "flux"), ("0.33.1", "hunyuan"), ("0.35.2", "wan")),
}


def run(version: str | None, name: str, folder: Path) -> dict[str, Any]:
    """Run `run_pipeline` in a separate process and return its results."""
    path = python(version)
    if path is None:
        pytest.skip(f"no environment for diffusers {version or ''} (pip install .[diffusion]; make versions)")
    done = subprocess.run(
        [str(path), "-m", "tests.pipelines.run_pipeline", name, str(folder)],
        cwd=ROOT, env=variables(folder.parent / "modules"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        pytest.skip(found["missing"])
    return found


def check(found: dict[str, Any], name: str, version: str | None) -> None:
    attentions, calls = PIPELINES[name]
    assert version in (None, found["diffusers"])
    assert found["image"], "patching changed an image"
    assert found["calls"] == 2 * 4 * calls
    assert found["outputs"]
    assert list(found["components"]) == ["transformer", "transformer_2"][: 1 + (name == "wan")]
    for component, export in found["components"].items():
        wrong = [check for check, value in export.items() if value is False]
        assert not wrong, component
        assert export["attentions"] == attentions
        assert export["head tensors"] == 6 * attentions
        assert export["shapes"] == [[3, 1]]
        assert export["int8 weights"] > 0
        print(f"PSNR of {name}'s {component} on diffusers {found['diffusers']}: {export['psnr']} dB")
        assert len(export["psnr"]) == 2 and all(ratio is not None and ratio > 30 for ratio in export["psnr"])


@pytest.mark.parametrize(("version", "name"), cases(PIPELINES, SINCE, SAMPLE))
def test_a_tiny_pipeline_has_the_scales_that_plain_hooks_find(tmp_path: Path, version: str | None, name: str) -> None:
    check(run(version, name, tmp_path / "pipeline"), name, version)
