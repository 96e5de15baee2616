"""Tests the diagnosis of packages, devices and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fa3cli import doctor
from fa3cli.doctor import diagnose

ROOT = Path(__file__).parents[1]


def test_this_machine_can_quantize() -> None:
    diagnosis = diagnose()
    assert diagnosis.ok
    assert {command.name for command in diagnosis.commands if command.works} >= {"fa3 patch", "fa3 verify"}
    assert diagnosis.disk_free > 0 and diagnosis.cpus > 0
    assert next(device for device in diagnosis.devices if device.kind == "cpu").names


def test_the_required_versions_equal_those_in_pyproject() -> None:
    declared = re.search(r"(?s)\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())[1]
    assert dict(re.findall(r'"(\w+)>=([\d.]+)"', declared)) == doctor._MINIMUM


MODULES = {
    "fa3 patch": "patch, fa3cli.patching.rewriting",
    "fa3 quantize": "quantize, fa3cli.api",
    "fa3 calibrate": "calibrate, fa3cli.api",
    "fa3 export": "export, fa3cli.api",
    "fa3 verify": "verify, fa3cli.api",
    "fa3 report": "report, fa3cli.report.data, fa3cli.report.page",
}


@pytest.mark.parametrize("command", doctor._NEEDS)
def test_a_command_needs_the_packages_that_its_modules_import(command: str) -> None:
    code = f"import sys, fa3cli.cli.{MODULES[command]}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split()) & doctor._MINIMUM.keys()
    # Every command needs typer, and rich for tables.
    assert imported - {"typer", "rich"} <= set(doctor._NEEDS[command])


@pytest.mark.parametrize(("version", "works"), [("4.42.9", False), ("4.43.0", True), ("5.0.0rc1", True)])
def test_an_old_transformers_stops_patch_and_quantize(version: str, works: bool, tmp_path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, "transformers", version)
    commands = {command.name: command for command in diagnose().commands}
    assert commands["fa3 patch"].works is commands["fa3 quantize"].works is works
    assert commands["fa3 report"].works and commands["fa3 verify"].works is works
    assert works or "transformers is too old, needs >=4.43" in commands["fa3 quantize"].reason


def test_a_newer_transformers_gets_a_remark(tmp_path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, "transformers", "6.1")
    diagnosis = diagnose()
    assert diagnosis.ok
    assert next(package for package in diagnosis.packages if package.name == "transformers").remark


def test_a_torch_npu_that_cannot_be_imported_is_shown(tmp_path, monkeypatch) -> None:
    (tmp_path / "torch_npu.py").write_text("raise OSError('libhccl.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    npu = next(device for device in diagnose().devices if device.kind == "npu")
    assert npu.names == () and "OSError: libhccl.so" in npu.problem
    assert "torch_npu" not in sys.modules


def test_cann_is_found_by_an_environment_variable(tmp_path, monkeypatch) -> None:
    (tmp_path / "version.cfg").write_text("[runtime]\nruntime_running_version=[8.0.RC3:8.0.RC3]\n")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    assert diagnose().cann == f"8.0.RC3 in {tmp_path}"


def test_versions_are_compared_as_numbers() -> None:
    assert doctor._release("2.13.0+cpu") > doctor._release("2.2")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """Make Python find the metadata of this version of a package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)
