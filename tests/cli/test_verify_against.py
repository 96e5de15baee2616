"""Runs `fa3 verify --against DIR --eval FILE` as a user does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fa3cli import api, patching
from fa3cli.exports.layout import REPORT_FILE
from tests.sample_models import snapshot, token_ids, write_lines, write_model

Fa3 = Callable[..., tuple[int, str, str]]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


@pytest.fixture
def export(llama: Path, tmp_path: Path) -> Path:
    output = tmp_path / "out"
    api.quantize(llama, calib=write_lines(tmp_path / "calib.jsonl", token_ids(9, 30)), output=output)
    return output


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "eval.jsonl", token_ids(20, 70))


def test_the_table_ends_with_the_comparison(export: Path, llama: Path, text: Path, fa3: Fa3) -> None:
    before = snapshot(export.parent)
    code, out, err = fa3("verify", export, "--against", llama, "--eval", text)
    assert code == 0 and "not saved" not in err
    assert "perplexity" in out and "KL divergence" in out and "same most likely token" in out
    assert "82 predicted tokens in 2 samples" in err and "1 of them cut" in err
    report = f"{export.name}/{REPORT_FILE}"
    before[report], after = b"", snapshot(export.parent) | {report: b""}
    assert after == before


def test_the_comparison_is_saved_in_the_report(export: Path, llama: Path, text: Path, tmp_path: Path, fa3: Fa3) -> None:
    before = json.loads((export / REPORT_FILE).read_text())
    code, out, _ = fa3("verify", export, "--against", llama, "--eval", text, "--json")
    kept = json.loads((export / REPORT_FILE).read_text())
    comparison = kept.pop("comparison")
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    measured = json.loads(out)["comparison"]
    assert code == 0 and kept == before and len(measured["layer_errors"]) == 3
    assert comparison == measured | {"text": "eval.jsonl", "text_sha256": digest}
    again = api.quantize(llama, calib=tmp_path / "calib.jsonl", output=export)
    assert again.already_there and again.layers[0].error is not None


def test_an_export_without_a_report_can_be_compared(export: Path, llama: Path, text: Path, fa3: Fa3) -> None:
    (export / REPORT_FILE).unlink()
    code, out, err = fa3("verify", export, "--against", llama, "--eval", text)
    assert code == 0 and "KL divergence" in out and f"has no {REPORT_FILE}" in err
    assert not (export / REPORT_FILE).exists()


def test_json_contains_report_and_comparison(export: Path, llama: Path, text: Path, fa3: Fa3) -> None:
    arguments = ["verify", export, "--against", llama, "--eval", text, "--max-length", 16, "--json"]
    code, out, _ = fa3(*arguments)
    found = json.loads(out)
    assert code == 0 and found["ok"]
    comparison = found["comparison"]
    assert (comparison["samples"], comparison["samples_cut"], comparison["tokens"]) == (2, 2, 30)
    assert comparison["kl_divergence"] > 0 and 0 <= comparison["top1_agreement"] <= 1
    assert "comparison" not in json.loads(fa3("verify", export, "--json")[1])


def test_a_broken_export_is_not_compared(export: Path, llama: Path, text: Path, fa3: Fa3) -> None:
    (export / "config.json").write_text("{")
    code, out, err = fa3("verify", export, "--against", llama, "--eval", text, "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False and "comparison" not in json.loads(out)
    assert "not compared" in err


def unpatched(folder: Path) -> None:
    patching.undo(folder)


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "words"),
    [
        (None, ["--against", "llama"], 2, "need each other"),
        (None, ["--eval", "eval.jsonl"], 2, "need each other"),
        (None, ["--against", "nowhere", "--eval", "eval.jsonl"], 5, "nowhere"),
        (None, ["--against", "llama", "--eval", "nowhere.jsonl"], 5, "nowhere.jsonl"),
        (None, ["--against", "llama", "--eval", "eval.jsonl", "--max-length", "1"], 2, "--max-length"),
        (unpatched, ["--against", "llama", "--eval", "eval.jsonl"], 5, "not patched"),
        (
            lambda folder: (folder / "modeling_llama_fa3.py").write_text("import os"),
            ["--against", "llama", "--eval", "eval.jsonl"],
            4,
            "--trust-remote-code",
        ),
        (
            lambda folder: (folder.parent / "eval.jsonl").write_text('{"input_ids": [5, 6]}\n{"text": "a"}\n'),
            ["--against", "llama", "--eval", "eval.jsonl"],
            5,
            "no tokenizer",
        ),
        (
            lambda folder: (folder.parent / "eval.jsonl").write_text('{"input_ids": [5, 6]}\nnot json\n'),
            ["--against", "llama", "--eval", "eval.jsonl"],
            5,
            "eval.jsonl, line 2",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
            ["--against", "llama", "--eval", "eval.jsonl"],
            5,
            "model.safetensors",
        ),
    ],
)
def test_errors_exit_with_their_codes(
    export: Path,
    llama: Path,
    text: Path,
    fa3: Fa3,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object] | None,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(text.parent)
    if spoil:
        spoil(llama)
    named = [llama if argument == "llama" else argument for argument in arguments]
    found, out, err = fa3("verify", export, *named)
    assert (found, out) == (code, ""), err
    assert words in err and "Traceback" not in err


@pytest.fixture(scope="module")
def flux_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A patched pipeline, and an export of it."""
    pytest.importorskip("diffusers")
    from fa3cli.pipelines.opening import open_pipeline
    from tests.patching.diffusion.tiny_pipelines import make
    from tests.pipelines.exports import block_linears, head_parameters, write_export

    folder = tmp_path_factory.mktemp("painter") / "flux"
    make("FluxTransformer2DModel", folder)
    patching.patch(folder)
    opened = open_pipeline(folder, fa=True)
    export = folder.with_name("export")
    return folder, write_export(export, opened, head_parameters(opened), block_linears(opened))


def test_a_pipelines_export_is_compared_on_prompts(flux_export: tuple[Path, Path], tmp_path: Path, fa3: Fa3) -> None:
    pipeline, export = flux_export
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na black cat\n")
    code, out, err = fa3("verify", export, "--against", pipeline, "--eval", prompts)
    assert code == 0 and out.count("dB") == 3 and "values from 0 to 1 differ by 0.0" in err
    kept = json.loads((export / REPORT_FILE).read_text())["comparison"]
    assert kept["text"] == "prompts.txt" and len(kept["psnr"]) == 2
    code, out, _ = fa3("verify", export, "--against", pipeline, "--eval", prompts, "--json")
    found = json.loads(out)
    assert code == 0 and found["ok"] and found["comparison"].items() <= kept.items()
    arguments = ("--against", pipeline, "--eval", prompts, "--max-length", 9)
    code, _, err = fa3("verify", export, *arguments)
    assert code == 2 and "--max-length" in err
    code, _, err = fa3("verify", export, "--against", tmp_path, "--eval", prompts)
    assert code == 5 and "model_index.json" in err
