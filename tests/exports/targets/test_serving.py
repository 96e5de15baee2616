"""Tests the commands that serve an export: the engine, the quoted folder, and the options that the model needs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from fa3cli.exports.targets import TARGETS, serve_command
from tests.conftest import ROOT

ALL, SOME, NONE = [True, None, True], [True, False], [False, False, None]


def export(folder: Path, *, dtype: str = "bfloat16", config: object = None, description: object = None) -> Path:
    """Write the files of an export that a command depends on."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"torch_dtype": dtype} | (config or {})))
    (folder / "quant_model_description.json").write_text(json.dumps(description or {}))
    (folder / "weights.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("target", "attentions", "expected"),
    [
        ("vllm", ALL, "vllm serve {}"),
        ("vllm", NONE, "vllm serve {}"),
        ("vllm-ascend", ALL, "vllm serve {} --quantization ascend --dtype bfloat16"),
        ("vllm-ascend", SOME, "vllm serve {} --quantization ascend --dtype bfloat16"),
        ("mindie", ALL, 'cd "$ATB_SPEED_HOME_PATH" && torchrun --nproc_per_node 1 -m examples.run_pa --model_path {}'),
        (
            "modelslim",
            ALL,
            'cd "$ATB_SPEED_HOME_PATH" && torchrun --nproc_per_node 1 -m examples.run_pa --model_path {}',
        ),
        ("modelslim", NONE, "vllm serve {} --quantization ascend --dtype bfloat16"),
        ("modelslim", SOME, None),
    ],
)
def test_each_target_has_a_command(target: str, attentions: list, expected: str | None, tmp_path: Path) -> None:
    folder = export(tmp_path / "of 'mine'; $HOME")
    found = serve_command(target, folder, attentions)
    assert found == (expected and expected.format(shlex.quote(str(folder))))
    assert found is None or str(folder) in shlex.split(found)


def test_the_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path / "-x")
    monkeypatch.chdir(tmp_path)
    assert serve_command("vllm", Path("-x"), ALL) == f"vllm serve {tmp_path / '-x'}"


def test_a_pipeline_is_served_by_a_script(tmp_path: Path) -> None:
    folder = export(tmp_path / "flux")
    path = str(folder / "quant_model_description_w8a8_dynamic.json")
    found = serve_command("mindie-sd", folder, ALL)
    assert found.startswith("no command") and f"mindiesd.quantize(transformer, quant_des_path={path!r})" in found


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_that_of_config_json_if_the_engine_serves_it(dtype: str, tmp_path: Path) -> None:
    found = serve_command("vllm-ascend", export(tmp_path / "x", dtype=dtype), ALL)
    assert found.endswith("--dtype float16" if dtype == "float16" else "--quantization ascend")


@pytest.mark.parametrize("target", ["vllm", "vllm-ascend", "mindie", "modelslim"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", None])
def test_code_is_trusted_only_if_the_export_has_code(target: str, file: str | None, tmp_path: Path) -> None:
    folder = export(tmp_path / "x")
    if file:
        (folder / file).write_text('{"torch_dtype": "bfloat16", "auto_map": {"AutoConfig": "configuration_own.Own"}}')
    trusted = {"--trust-remote-code", "--trust_remote_code"} & {*shlex.split(serve_command(target, folder, ALL))}
    assert bool(trusted) == bool(file)


def test_smoothed_norms_of_the_reference_are_served_by_mindie(tmp_path: Path) -> None:
    norm = {"model.layers.0.input_layernorm.module.weight": "W8A8"}
    found = serve_command("modelslim", export(tmp_path / "x", description=norm), NONE)
    assert "examples.run_pa" in found


@pytest.mark.parametrize("target", TARGETS)
def test_no_engine_reads_an_export_of_pickles(target: str, tmp_path: Path) -> None:
    folder = export(tmp_path / "x")
    (folder / "weights.safetensors").rename(folder / "quant_weight.npy")
    assert serve_command(target, folder, ALL) is None


def test_files_that_a_run_will_move_are_read_where_they_are(tmp_path: Path) -> None:
    now, later = export(tmp_path / "journal" / "export", dtype="float16"), tmp_path / "later"
    expected = f"vllm serve {later} --quantization ascend --dtype float16"
    assert serve_command("vllm-ascend", later, ALL, now) == expected


def test_the_docs_have_the_commands(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "targets.md").read_text()
    section = text.partition("## How to serve")[2].partition("\n### ")[0]
    folder = export(tmp_path / "x")
    for target in ("vllm", "vllm-ascend", "mindie"):
        assert f"`{serve_command(target, folder, ALL).replace(str(folder), 'DIR')}`" in section
    call = serve_command("mindie-sd", folder, ALL).partition("script: ")[2].replace(str(folder), "DIR")
    assert f"`{call}`".replace("'", '"') in section
