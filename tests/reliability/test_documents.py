"""Tests that no invalid document causes a traceback, much time or memory, or access outside its folder."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.documents import mutate
from tests.reliability.readers import READERS
from tests.reliability.scenes import ROOT

FUZZ = [sys.executable, "-m", "tests.reliability.fuzz"]


def test_a_sample_of_mutated_documents_has_no_failures(scenes: Path) -> None:
    command = [*FUZZ, "--share", "0.01", "--processes", "1", "--scenes", scenes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "failures 0" in done.stdout.splitlines()[-1]


@pytest.mark.faults
def test_all_mutated_documents_have_no_failures() -> None:
    assert subprocess.run(FUZZ, cwd=ROOT, check=False).returncode == 0


def test_the_readers_have_at_least_20000_inputs() -> None:
    assert sum(reader.count for reader in READERS.values()) >= 20_000


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("json", json.dumps({"a": [1, {"b": "c"}], "d": None})),
        ("lines", '{"input_ids": [1, 2]}\na cat\n'),
        ("toml", 'a = 1\n[site]\nq = "x"\n'),
        ("python", "class A:\n    def forward(self, x):\n        return x\n"),
    ],
)
def test_a_seed_gives_the_same_input_again(tmp_path: Path, form: str, text: str) -> None:
    """Most other seeds give another input."""
    runs = []
    for run in range(2):
        inputs = []
        for seed in range(60):
            (tmp_path / "linked").mkdir(exist_ok=True)
            file = tmp_path / f"file-{run}-{seed}"
            file.write_text(text)
            mutate(file, form, random.Random(seed))
            plain = file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20
            inputs.append(file.read_bytes() if plain else b"odd")
            file.unlink(missing_ok=True) if not file.is_dir() else file.rmdir()
        runs.append(inputs)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 40
