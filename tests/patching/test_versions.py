"""Native against patched models under every transformers version that has an environment here."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSIONS = ("4.43.1", "4.57.6", "5.23.0")


def run(version: str, side: str, folder: Path, *types: str, script: str = "matrix.py") -> dict:
    python = ROOT / ".venvs" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment for transformers {version} (make versions)")
    # The modules cache is keyed by a folder's basename: one cache a run.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_MODULES_CACHE": str(folder / f"cache-{side}"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [python, Path(__file__).with_name(script), side, folder, *types]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_patched_models_compute_what_native_ones_do(version: str, tmp_path: Path) -> None:
    types = ("qwen2", "llama")
    native = run(version, "native", tmp_path, *types)
    assert native == {name: {"eager": "ok", "sdpa": "ok"} for name in types}
    patched = run(version, "patched", tmp_path, *types)
    for model_type in types:
        assert {key: patched[model_type][key] for key in ("eager", "sdpa")} == {"eager": [], "sdpa": []}
        assert any("Attention" in name for name in patched[model_type]["classes"])
