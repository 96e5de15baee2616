"""Provides a weights folder for `fa3 patch`, which needs config.json only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_bytes(json.dumps(CONFIG, indent=2).replace("\n", "\r\n").encode())
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, links followed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
