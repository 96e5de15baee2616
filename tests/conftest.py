"""Sets up all tests: one thread, a separate cache of model code, and models to quantize."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Set before transformers is imported, per process: transformers' cache of model code is keyed by a folder's basename.
_CACHE = tempfile.mkdtemp(prefix="fa3-test-modules-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["HF_MODULES_CACHE"] = _CACHE
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
import torch

# No deadline: torch's first calls are slow, and so is a busy machine.
hypothesis.settings.register_profile("fa3", deadline=None)
hypothesis.settings.load_profile("fa3")

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHARED_MODELS = ROOT.parent / "shared" / "models"


def copy_model(source: Path, folder: Path) -> Path:
    """Copy a weights folder; skip the test if the folder is missing."""
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    return Path(shutil.copytree(source, folder))


@pytest.fixture
def qwen2_tiny(tmp_path: Path) -> Path:
    """Return the shipped bfloat16 model, patched, in a folder whose name no other test uses."""
    from fa3cli import patching

    folder = copy_model(EXAMPLES / "qwen2-tiny", tmp_path / f"qwen2-{tmp_path.name}")
    patching.patch(folder)
    return folder


@pytest.fixture
def fa3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `fa3 ...` in this process and returns exit code, stdout and stderr."""
    from fa3cli.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fa3", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
            sys.exit(0)
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    """Calibration lines of token ids."""
    from tests.sample_models import token_ids, write_lines

    return write_lines(tmp_path / "calib.jsonl", token_ids(9, 17, 5))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A random patched Llama."""
    from tests.sample_models import write_model

    return write_model(tmp_path / f"llama-{tmp_path.name}")
