"""Tests that `python -m fa3cli` imports no modules from the current folder, which may be a weights folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fa3cli import __main__ as main
from tests.conftest import EXAMPLES, ROOT, copy_model

NAMES = (
    "__future__", "accelerate", "ctypes", "dataclasses", "json", "logging", "msgspec", "numpy", "pathlib", "psutil", "re",
    "rich", "safetensors", "signal", "socket", "tempfile", "tokenizers", "torch", "transformers", "typer",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a weights folder with modules that write a file when they are imported."""
    folder = copy_model(EXAMPLES / "qwen2-tiny", tmp_path / "weights")
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'a').write({name!r} + ' ')\n")
    return folder


def run(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "fa3cli"), path: str = str(ROOT)) -> str:
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("commands", [["doctor"], ["patch .", "quantize --plan --samples 1"]])
def test_no_module_of_the_current_folder_is_imported(hostile: Path, commands: list[str]) -> None:
    for command in commands:
        run(hostile, *command.split())
    canary = hostile.parent / "CANARY"
    assert not canary.exists(), canary.read_text()


def test_a_source_checkout_works_as_the_current_folder(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fa3cli", tmp_path / "fa3cli")
    shutil.copytree(ROOT / "patch_rules", tmp_path / "patch_rules")
    code = "import fa3cli; print(fa3cli.__file__)"
    assert str(tmp_path) in run(tmp_path, program=("-c", code), path="")
    assert "quantize" in run(tmp_path, "--help", path="")


@pytest.mark.parametrize(
    ("first", "flags", "left"),
    [
        ("here", {}, ["else"]),
        ("", {}, ["else"]),
        ("added by a user", {}, ["added by a user", "else"]),
        ("here", {"safe_path": True}, ["here", "else"]),
        ("here", {"isolated": 1}, ["here", "else"]),
    ],
)
def test_only_the_entry_that_python_added_is_removed_from_sys_path(
    first: str, flags: dict, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"here": str(tmp_path)}
    found = SimpleNamespace(
        flags=SimpleNamespace(**{"isolated": 0, "safe_path": False} | flags),
        path=[names.get(first, first), "else"],
    )
    monkeypatch.setattr(main, "sys", found)
    main._leave_current_folder()
    assert found.path == [names.get(name, name) for name in left]
