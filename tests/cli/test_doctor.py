from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fa3_doctor(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [path, ROOT] if path else [ROOT]))}
    command = [sys.executable, "-m", "fa3cli", "doctor", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_tables_name_every_package_and_command() -> None:
    run = fa3_doctor()
    assert run.returncode == 0, run.stderr
    for word in ("torch", "transformers", "free memory", "CANN", "npu", "fa3 quantize"):
        assert word in run.stdout


def test_stdout_contains_only_json() -> None:
    facts = json.loads(fa3_doctor("--json").stdout)
    assert facts["ok"] is True
    assert {package["name"] for package in facts["packages"]} >= {"torch", "transformers", "safetensors"}


def test_a_required_package_that_is_too_old_exits_6(tmp_path: Path) -> None:
    info = tmp_path / "transformers-4.40.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.40.0\n")
    run = fa3_doctor(path=tmp_path)
    assert run.returncode == 6
    assert "too old" in run.stdout


def install_broken_torch_npu(folder: Path) -> None:
    """Install a torch_npu that makes `import torch` fail, as if CANN's set_env.sh had not been sourced."""
    info = folder / "torch_npu-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.13.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    (folder / "torch_npu.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')")


def test_the_cause_is_reported_if_torch_cannot_load_torch_npu(tmp_path: Path) -> None:
    install_broken_torch_npu(tmp_path)
    run = fa3_doctor("--json", path=tmp_path)
    assert run.returncode == 6, run.stderr
    problems = [package["problem"] for package in json.loads(run.stdout)["packages"] if package["name"] == "torch"]
    assert "ImportError: libhccl.so: cannot open" in problems[0]


def test_quantize_names_the_script_to_source(tmp_path: Path) -> None:
    install_broken_torch_npu(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "fa3cli", "quantize", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert (run.returncode, run.stdout) == (6, "")
    assert "ImportError: libhccl.so" in run.stderr and "set_env.sh" in run.stderr
    assert "Traceback" not in run.stderr
