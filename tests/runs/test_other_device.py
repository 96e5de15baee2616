"""A run on a device that refuses the CPU's tensors makes the CPU's export, byte for byte: its operators are the CPU's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli import api
from fa3cli.exports.layout import REPORT_FILE
from tests.device_backend.build import reason_to_skip
from tests.device_backend.process import Call, call_apart
from tests.guide import differing, quantized, tensors
from tests.sample_models import snapshot, token_ids, write_lines, write_model

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

METHODS = ("m1", "m2", "m3", "m4", "m5", "m6")
OPTIONS: list[dict[str, Any]] = [
    {"act_method": 2, "disable_last_linear": False},
    {"act_method": 3, "disable_level": "L2", "fa_amp": 1, "mm_tensor": True},
    *({"anti_method": method} for method in METHODS),
]
RUNS = {
    f"{model}-{'-'.join(map(str, options.values()))}-{numerics}": (model, {**options, "numerics": numerics})
    for model, numerics in (("llama", "improved"), ("qwen2", "improved"), ("qwen2", "reference"))
    for options in OPTIONS
}
RUNS["llama-error"] = "llama", {"fa_amp": 1, "fa_score": "error"}
# Their code computes tensors on the device: a scale of embeddings, tables of positions.
RUNS |= {model: (model, {}) for model in ("gemma3_text", "gpt2")}
IN_MEMORY = ("none", "m4", "m6")
SHORT_OF_MEMORY = [{}, {"numerics": "reference"}, {"anti_method": "m2"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, a calibration file with padding, and an export."""
    place = tmp_path_factory.mktemp("device")
    padded = {"input_ids": token_ids(6, 6), "attention_mask": [[1] * 6, [0] * 2 + [1] * 4]}
    write_lines(place / "calib.jsonl", [*token_ids(9, 17), padded])
    write_lines(place / "text.jsonl", token_ids(12, 33))
    for model, dtype in {
        "llama": torch.float32,
        "qwen2": torch.bfloat16,
        "gemma3_text": torch.float32,
        "gpt2": torch.float32,
    }.items():
        write_model(place / model, model, dtype=dtype)
    api.quantize(place / "llama", output=place / "export", calib=place / "calib.jsonl", anti_method="m4")
    return place


@pytest.fixture(scope="module")
def outcomes(place: Path) -> dict[str, str | None]:
    """Run everything on the device in one process; return the tracebacks of failures by name."""

    def run(function: str, model: str, output: str, options: dict[str, Any]) -> Call:
        given = {
            "folder": place / model,
            "output": place / f"{output}-device",
            "calib": place / "calib.jsonl",
        }
        return Call(f"runs.{function}", {**{key: str(path) for key, path in given.items()}, "options": options})

    llama, export, text = (str(place / name) for name in ("llama", "export", "text.jsonl"))
    expected = asdict(api.compare(export, llama, text))
    calls = {
        **{name: run("quantize", model, name, options) for name, (model, options) in RUNS.items()},
        **{
            f"in-memory-{method}": Call(
                "runs.export_from_memory",
                {"folder": llama, "output": str(place / f"in-memory-{method}"), "anti_method": method},
            )
            for method in IN_MEMORY
        },
        **{
            f"short-{number}": run("run_out_of_memory", "llama", f"short-{number}", options)
            for number, options in enumerate(SHORT_OF_MEMORY)
        },
        "observe": Call("runs.observe_samples_of_two_devices"),
        "compare": Call("runs.compare", {"made": export, "folder": llama, "text": text, "expected": expected}),
    }
    return dict(zip(calls, call_apart(list(calls.values()), place)))


def export_files(output: Path) -> dict[str, bytes]:
    """All files of an export except its report."""
    return {name: data for name, data in snapshot(output).items() if name != REPORT_FILE}


@pytest.mark.parametrize("name", RUNS)
def test_the_export_equals_that_of_the_cpu(name: str, place: Path, outcomes: dict[str, str | None]) -> None:
    assert outcomes[name] is None, outcomes[name]
    model, options = RUNS[name]
    output = place / f"{name}-cpu"
    api.quantize(place / model, output=output, calib=place / "calib.jsonl", **options)
    found, expected = export_files(place / f"{name}-device"), export_files(output)
    assert found.keys() == expected.keys()
    assert [file for file in found if found[file] != expected[file]] == []


@pytest.mark.parametrize("method", IN_MEMORY)
def test_a_model_of_a_script_on_the_device_gives_the_cpu_export(
    method: str, tmp_path: Path, place: Path, outcomes: dict[str, str | None]
) -> None:
    name = f"in-memory-{method}"
    assert outcomes[name] is None, outcomes[name]
    folder = tmp_path / "llama"
    folder.symlink_to(place / "llama")
    assert differing(tensors(place / name), quantized(folder, anti_method=method)) == []


@pytest.mark.parametrize("name", ["compare", "observe"])
def test_comparison_and_observers_work_on_the_device(name: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[name] is None, outcomes[name]


@pytest.mark.parametrize("number", range(len(SHORT_OF_MEMORY)))
def test_out_of_memory_gives_the_same_export_or_an_error(number: int, outcomes: dict[str, str | None]) -> None:
    assert outcomes[f"short-{number}"] is None, outcomes[f"short-{number}"]
