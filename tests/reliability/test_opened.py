"""Tests by strace that commands open nothing outside their folder, whatever paths documents hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.judged import copy_scene
from tests.reliability.scenes import ROOT, environment, make_scenes
from tests.reliability.values import CANARY

STRACE = shutil.which("strace")


def remote_code(config: Any) -> None:
    names = {"AutoModelForCausalLM": f"../{CANARY}/x.X", "AutoConfig": f"../{CANARY}/x--x.X"}
    config |= {"auto_map": names, "model_type": "unheard_of"}


def receipt(found: Any) -> None:
    found["options"] |= {"modeling": f"../{CANARY}/x.py", "rules": f"../{CANARY}"}
    found |= {"source": f"../{CANARY}/x.py", "link": f"../{CANARY}/x.json", "module": f"../{CANARY}/x.py"}


def absolute_receipt(found: Any) -> None:
    receipt(found)
    found["module"] = "modeling_llama_fa3.py"
    found["options"]["modeling"] = found["source"] = f"WORK/{CANARY}/x.py"


def parts(index: Any) -> None:
    for name in ("transformer", "vae"):
        index[name] = [f"../{CANARY}/x", "X"]
    index[f"../{CANARY}"] = ["diffusers", "FluxTransformer2DModel"]


def shards(index: Any) -> None:
    for name in list(index["weight_map"])[:3]:
        index["weight_map"][name] = f"../{CANARY}/model.safetensors"


@pytest.mark.parametrize(
    ("scene", "document", "edit", "command"),
    [
        ("plain", "model/config.json", remote_code, "patch {w}/model"),
        ("patched", "model/.fa3/patch.json", receipt, "patch {w}/model"),
        ("patched", "model/.fa3/patch.json", receipt, "patch {w}/model --undo --force"),
        ("patched", "model/.fa3/patch.json", absolute_receipt, "patch {w}/model --check"),
        (
            "sharded",
            "model/.fa3/patch.json",
            absolute_receipt,
            "quantize {w}/model --calib {w}/calib.jsonl --plan",
        ),
        ("pipeline", "model/model_index.json", parts, "patch {w}/model"),
        (
            "sharded",
            "model/model.safetensors.index.json",
            shards,
            "quantize {w}/model --calib {w}/calib.jsonl --plan",
        ),
        ("exported", "out/quant_model_weight_w8a8.safetensors.index.json", shards, "verify {w}/out"),
    ],
)
def test_commands_open_nothing_outside_the_folder(
    scenes: Path, tmp_path: Path, scene: str, document: str, edit: Callable[[Any], None], command: str
) -> None:
    if STRACE is None:
        pytest.skip("no strace")
    make_scenes(scenes, [scene])
    work = tmp_path / "work"
    copy_scene(scenes / scene, work)
    found = json.loads((work / document).read_text())
    edit(found)
    (work / document).write_text(json.dumps(found).replace("WORK", str(work)))
    fa3 = [sys.executable, "-m", "fa3cli", *command.format(w=work).split()]
    log = tmp_path / "calls"
    done = subprocess.run(
        [STRACE, "-f", "-qq", "-e", "trace=open,openat,execve", "-o", log, *fa3],
        cwd=ROOT,
        env=environment(tmp_path / "modules") | {"FA3_CANARY": str(work / CANARY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in range(7), done.stderr
    calls = log.read_text(errors="replace").splitlines()
    assert any(f"{work}/{document}" in call for call in calls)  # strace works: the document itself was opened
    # transformers has a model named canary, whose files are below sys.prefix
    opened = [call for call in calls if f"/{CANARY}" in call and sys.prefix not in call]
    assert [call for call in opened if " = -1 " not in call] == []
    assert not (work / CANARY / "ran").exists()
