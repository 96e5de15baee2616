"""A pipeline that is sampled and quantized on a device that refuses the CPU's tensors gives the CPU's export.

Scales may differ in their last bits: some of what diffusers calls is composed of other operators there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fa3cli import api
from fa3cli.exports.targets import TARGETS
from tests.device_backend.build import reason_to_skip
from tests.device_backend.process import Call, call_apart

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

_WEIGHTS = TARGETS["mindie-sd"].weight_file
RUNS: dict[str, dict[str, Any]] = {
    "flux": {"steps": 3, "height": 8, "width": 8, "max_records": 4, "fa_amp": 1},
    "hunyuan": {"steps": 2, "height": 16, "width": 16, "frames": 5},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_export_matches_that_of_the_cpu(name: str, made: Callable[..., Path], tmp_path: Path) -> None:
    folder, prompts = made(name, True), tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog in the rain\n")
    arguments = {"folder": folder, "output": tmp_path / "device", "prompts": prompts}
    given = {key: str(path) for key, path in arguments.items()}
    [failed] = call_apart([Call("runs.quantize_pipeline", {**given, "options": RUNS[name]})], tmp_path)
    assert failed is None, failed
    api.quantize(folder, output=tmp_path / "cpu", prompts=prompts, **RUNS[name])
    files = {file.name for file in (tmp_path / "cpu").iterdir()}
    assert {file.name for file in (tmp_path / "device").iterdir()} == files
    found, expected = (load_file(tmp_path / place / _WEIGHTS) for place in ("device", "cpu"))
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        if tensor.endswith(".scale"):
            torch.testing.assert_close(found[tensor], values, rtol=1e-4, atol=0)
        else:
            assert torch.equal(found[tensor], values)
