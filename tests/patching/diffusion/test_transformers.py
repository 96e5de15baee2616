"""Tests that tiny random transformers and a tiny Flux pipeline give the same bits before and after `fa3 patch`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.patching.diffusion.environments import cases, python
from tests.patching.matrix.environments import ROOT, variables

FLUX, HUNYUAN = "FluxTransformer2DModel", "HunyuanVideoTransformer3DModel"
OTHERS = ("QwenImageTransformer2DModel", "CogVideoXTransformer3DModel", "WanTransformer3DModel")
# The versions that have a class, and those in which its quantizers get another layout than [B, H, S, D].
SINCE = {
    "HunyuanVideoTransformer3DModel": "0.33.1",
    "QwenImageTransformer2DModel": "0.35.2",
    "WanTransformer3DModel": "0.33.1",
}
SAMPLE = {
    *((None, name) for name in (FLUX, HUNYUAN, OTHERS[2])),
    *(("0.31.0", FLUX), ("0.31.0", OTHERS[1]), ("0.33.1", HUNYUAN), ("0.33.1", OTHERS[2])),
    *(("0.35.2", FLUX), ("0.35.2", OTHERS[0])),
}


def run(version: str | None, class_name: str, folder: Path) -> dict[str, Any]:
    """Run `run_transformer` in a separate process and return its results."""
    path = python(version)
    if path is None:
        pytest.skip(f"no environment for diffusers {version or ''} (pip install .[diffusion]; make versions)")
    done = subprocess.run(
        [str(path), "-m", "tests.patching.diffusion.run_transformer", class_name, str(folder)],
        cwd=ROOT, env=variables(folder.parent / "modules"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict[str, Any], class_name: str, version: str | None) -> None:
    assert version in (None, found["diffusers"])
    assert found["class"] == f"diffusers_modules.{class_name}"
    wrong = [
        name for name in ("modules", "plain", "powers", "once", "keys", "undone", "reproducible") if not found[name]
    ]
    assert not wrong
    assert found["again"] == "already-patched"
    assert found["quantizers"] >= 2
    if class_name == FLUX:
        assert found["image"] and found["fused"]


@pytest.mark.parametrize(("version", "class_name"), cases((FLUX, HUNYUAN, *OTHERS), SINCE, SAMPLE))
def test_a_tiny_transformer_computes_the_same_bits(tmp_path, version: str | None, class_name: str) -> None:
    found = run(version, class_name, tmp_path / "pipeline")
    check(found, class_name, version)
    old = {FLUX: "0.35", HUNYUAN: "0.36"}.get(class_name)
    if version and old:
        assert found["heads"] == ["BSHD" if version >= old else "BHSD"]
