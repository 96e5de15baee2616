"""Runs `fa3 report` as a user does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fa3cli import api
from fa3cli.report.data import gather
from fa3cli.report.page import page
from tests.conftest import ROOT
from tests.exports.exports import Export
from tests.report.exports import layer, report_of, sampled, write_export, write_heads, write_report

Fa3 = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return write_export(tmp_path / "model-w8a8-fa3")


def test_tables_contain_the_facts(export: Export, fa3: Fa3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = fa3("report", export.folder)
    assert code == 0
    for told in (
        "LlamaForCausalLM, float32",
        "down_proj (disable_names)",
        "float (fa_amp)",
        "named by disable_names",
        "29.484",
        "64 samples, 2 of them cut",
        "0123456789abcdef" * 4,
    ):
        assert told in out, told
    assert "warning: MindIE stops at layers without FA3 tensors" in err
    scales = export.tensors["model.layers.0.self_attn.fa_q.scale"].flatten()
    assert f"{scales.min():#.3g}–{scales.max():#.3g}" in out
    [bars] = re.findall(r"│ 0 +│ \S+ +([▁-█]{4}) +│ \S+ +[▁-█]{2} +│ \S+ +[▁-█]{2} +│", out)
    assert bars[scales.argmax()] == max(bars) and bars[scales.argmin()] == min(bars)


def test_the_command_that_serves_the_export_is_one_line(tmp_path: Path, fa3: Fa3) -> None:
    folder = write_export(tmp_path / "my model").folder
    command = f"torchrun --nproc_per_node 1 -m examples.run_pa --model_path '{folder}'"
    # One of the two layers is without FA3, which no engine of target modelslim serves.
    assert "\nserve: no engine reads this export\n" in fa3("report", folder)[1]
    assert json.loads(fa3("report", folder, "--json")[1])["serve"] is None
    report = json.loads((folder / "fa3_report.json").read_text()) | {"target": "mindie"}
    write_report(folder, report)
    assert f'\nserve: cd "$ATB_SPEED_HOME_PATH" && {command}\n' in fa3("report", folder)[1]
    assert json.loads(fa3("report", folder, "--json")[1])["serve"].endswith(command)


@pytest.mark.parametrize(("columns", "tables", "bars"), [(80, 1, False), (100, 3, True), (160, 1, True)])
def test_heat_maps_adapt_to_the_terminal_width(
    tmp_path: Path, fa3: Fa3, monkeypatch: pytest.MonkeyPatch, columns: int, tables: int, bars: bool
) -> None:
    write_heads(tmp_path / "large", layers=3, heads=64, kv_heads=8)
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = fa3("report", tmp_path / "large")
    lines = [line for line in out.splitlines() if not line.startswith("serve: ")]  # never wrapped
    assert code == 0 and max(map(len, lines)) <= columns
    assert len([line for line in out.splitlines() if "scales of" in line]) == tables
    assert bool(re.search("[▁-█]{64}", out)) is bars


def test_timesteps_are_shown(export: Export, fa3: Fa3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "timestep" not in fa3("report", export.folder)[1]
    write_report(export.folder, report_of([sampled(0, 5), layer(1)], target="mindie-sd"))
    code, out, _ = fa3("report", export.folder)
    assert code == 0 and "layer" not in out
    assert re.search(r"│ 0 +│ 2.00 at 920 +│ 1.00 at 1000 +│ – +│", out)
    facts = json.loads(fa3("report", export.folder, "--json")[1])
    assert facts["layers"][0]["timesteps"][0] == {"timestep": 1000.0, "q": 1.0, "k": 3.0, "v": None}
    assert facts["layers"][1]["timesteps"] == []


def test_differences_of_images_are_shown(export: Export, fa3: Fa3) -> None:
    found = {"prompts": 2, "psnr": [41.26, None], "mean_psnr": 41.26, "largest_difference": 0.25}
    write_report(export.folder, report_of([layer(0)], target="mindie-sd", comparison=found))
    code, out, _ = fa3("report", export.folder)
    assert code == 0 and out.count("41.3\N{NO-BREAK SPACE}dB") == 2
    assert "perplexity" not in out and "not measured" not in out


def test_json_contains_the_facts(export: Export, fa3: Fa3) -> None:
    code, out, _ = fa3("report", export.folder, "--json")
    facts = json.loads(out)
    assert code == 0 and [layer["fa"] for layer in facts["layers"]] == [True, False]
    assert facts["accuracy"]["tokens"] == 1021 and facts["origin"]["settings"]["w_bit"] == 8
    assert {scale["tensor"]: scale["values"] for scale in facts["scales"]} == {
        name: tensor.flatten().tolist()
        for name, tensor in export.tensors.items()
        if ".fa_" in name and name.endswith(".scale")
    }


def test_html_writes_the_page(export: Export, tmp_path: Path, fa3: Fa3) -> None:
    file = tmp_path / "report.html"
    code, out, err = fa3("report", export.folder, "--html", file)
    assert (code, out) == (0, "") and str(file) in err
    assert file.read_text(encoding="utf-8") == page(gather(export.folder))
    code, out, _ = fa3("report", export.folder, "--html", file, "--json")
    assert code == 0 and json.loads(out)["name"] == "model-w8a8-fa3"


def test_errors_exit_5(export: Export, tmp_path: Path, fa3: Fa3) -> None:
    for arguments in (
        (tmp_path,),
        (tmp_path / "gone",),
        (export.folder, "--html", tmp_path / "gone" / "a.html"),
    ):
        code, out, err = fa3("report", *arguments)
        assert (code, out) == (5, "") and str(tmp_path) in err and "hint: " in err


def test_control_characters_in_names_are_not_printed(export: Export, fa3: Fa3) -> None:
    name = "\x1b[2J[red]\u202e"
    write_report(export.folder, report_of([layer(0) | {"float_linears": {name: name}, "fa_reason": name}], recipe=name))
    code, out, _ = fa3("report", export.folder)
    assert code == 0 and "\x1b" not in out and "\u202e" not in out and "[red]" in out


def test_an_export_of_quantize_is_reported_without_remarks(qwen2_tiny: Path, tmp_path: Path, fa3: Fa3) -> None:
    calibration = tmp_path / "calib.jsonl"
    calibration.write_text('{"text": "It is a truth universally acknowledged."}\n')
    result = api.quantize(qwen2_tiny, calib=calibration, output=tmp_path / "out", fa_amp=1)
    code, out, _ = fa3("report", tmp_path / "out", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["remarks"] == []
    assert [shown["quantized"] for shown in facts["layers"]] == [layer.quantized for layer in result.layers]
    assert [shown["fa"] for shown in facts["layers"]] == [layer.fa for layer in result.layers]
    assert [len(shown["float_linears"]) for shown in facts["layers"]] == [
        len(layer.float_linears) for layer in result.layers
    ]
    assert len(facts["scales"]) == 3 * sum(layer.fa is True for layer in result.layers)
    assert facts["origin"]["hashes"].keys() >= {"weights", "config", "calibration"}


def test_help_imports_nothing_heavy() -> None:
    statement = "import sys, fa3cli.cli.app; print({'torch', 'jinja2', 'rich.table', 'safetensors'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_report_with_an_unencodable_name_is_printed(export: Export, form: tuple[str, ...]) -> None:
    """A name with a lone surrogate, and a terminal that encodes ASCII only."""
    write_report(export.folder, report_of([layer(0)], recipe="\ud800"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "fa3cli", "report", str(export.folder), *form]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "LlamaForCausalLM" in run.stdout and "Traceback" not in run.stderr
