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


def test_json_is_all_there_is_on_stdout() -> None:
    facts = json.loads(fa3_doctor("--json").stdout)
    assert facts["ok"] is True
    assert {package["name"] for package in facts["packages"]} >= {"torch", "transformers", "safetensors"}


def test_exit_6_if_something_required_is_too_old(tmp_path: Path) -> None:
    info = tmp_path / "transformers-4.40.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.40.0\n")
    run = fa3_doctor(path=tmp_path)
    assert run.returncode == 6
    assert "too old" in run.stdout
