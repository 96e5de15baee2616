"""Runs `fa3 quantize` as a user does: exit codes, stdout and stderr, and that no files are left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fa3cli.errors import UnsupportedError
from tests.conftest import EXAMPLES, ROOT, copy_model
from tests.sample_models import (
    WEIGHTS,
    edit_config,
    edit_weights,
    snapshot,
    split_weights,
    token_ids,
    write_config,
    write_index,
    write_lines,
    write_model,
)

VERSIONS = ("4.43.1", "4.57.6", "5.23.0")
OPTIONS = """
--output --calib --samples --max-length --recipe --numerics --w-bit --a-bit --act-method --anti-method --disable-names
--disable-level --disable-last-linear --no-disable-last-linear --mm-tensor --no-mm-tensor --fa --no-fa --fa-amp
--fa-score --save-type --target --part-file-size --device --dtype --attn-implementation --plan --trust-remote-code
--json
"""

Fa3 = Callable[..., tuple[int, str, str]]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}")
    write_lines(tmp_path / "calib.jsonl", token_ids(9, 17, 5))
    return folder


@pytest.fixture
def calib(llama: Path) -> list[str]:
    return ["--calib", str(llama.parent / "calib.jsonl")]


def test_default_options_write_the_export_beside_the_weights(qwen2_tiny: Path, fa3: Fa3) -> None:
    """With the shipped calibration set and the model's tokenizer, the export is written beside the weights."""
    code, out, err = fa3("quantize", qwen2_tiny, "--samples", 2)
    output = qwen2_tiny.with_name(f"{qwen2_tiny.name}-w8a8-fa3")
    assert code == 0 and (output / "quant_model_weight_w8a8.safetensors").exists()
    assert "model.layers.3" in out and "mlp.down_proj" in out and "q, k, v" in out
    assert f"{output}: " in out and "2 samples" in out
    command = f"torchrun --nproc_per_node 1 -m examples.run_pa --model_path {output}"
    assert out.endswith(f'\nserve: cd "$ATB_SPEED_HOME_PATH" && {command}\n')
    assert "layer 1/4 done" in err and "memory" in err and "left" in err
    assert "settings: act_method=1 (recipe qwen2.5-72b)" in err
    assert "disable_names=*.down_proj (recipe qwen2.5-72b)" in err
    code, out, err = fa3("quantize", qwen2_tiny, "--samples", 2)
    assert (code, out) == (0, "") and "nothing to do" in err
    assert fa3("verify", output)[0] == 0


def test_json_has_one_object_per_line(llama: Path, calib: list[str], fa3: Fa3) -> None:
    code, out, _ = fa3("quantize", llama, *calib, "--fa-amp", 1, "--json")
    *events, result = map(json.loads, out.splitlines())
    assert code == 0
    assert [(event["event"], event["layer"], event["layers"]) for event in events] == [
        ("progress", layer, 6) for layer in range(1, 7)
    ]
    assert result["event"] == "result"
    assert result["samples"] == 3 and result["tokens"] == 31
    assert [layer["fa"] for layer in result["layers"]].count(False) == 1
    assert result["output"] == f"{llama}-w8a8-fa3"
    assert result["serve"] == {"modelslim": None}  # MindIE refuses a layer without FA3


def test_the_current_folder_is_the_default(
    llama: Path, calib: list[str], fa3: Fa3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(llama)
    assert fa3("quantize", *calib)[0] == 0
    assert Path(f"{llama}-w8a8-fa3").is_dir()


def test_every_option_reaches_the_run(llama: Path, calib: list[str], fa3: Fa3, tmp_path: Path) -> None:
    code, out, err = fa3(
        "quantize", llama, *calib, "--output", tmp_path / "a" / "b", "--samples", 2, "--max-length", 8,
        "--recipe", "none", "--numerics", "improved", "--w-bit", 8, "--a-bit", 8, "--act-method", 1,
        "--anti-method", "none", "--disable-names", "*.0.*", "--disable-names", "*.1.self_attn",
        "--disable-level", "L0", "--disable-last-linear", "--no-mm-tensor", "--fa", "--fa-amp", 1,
        "--fa-score", "reference", "--save-type", "numpy", "--save-type", "safe_tensor", "--target", "modelslim",
        "--part-file-size", 1.5, "--device", "cpu", "--dtype", "bfloat16", "--attn-implementation", "eager", "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    identity = json.loads((tmp_path / "a" / "b" / "fa3_report.json").read_text())["identity"]
    assert result["tokens"] == 16 and [layer["quantized"] for layer in result["layers"]] == [0, 7, 7]
    assert [layer["fa"] for layer in result["layers"]] == [False, False, False]
    assert identity["settings"]["disable_names"] == ["*.0.*", "*.1.self_attn"]
    assert identity["settings"]["fa_amp"] == 1 and identity["part_bytes"] == 1_500_000_000
    assert (identity["dtype"], identity["attn_implementation"]) == ("torch.bfloat16", "eager")
    assert identity["save_types"] == ["numpy", "safe_tensor"]


def test_plan_reads_no_weight_and_writes_nothing(llama: Path, calib: list[str], fa3: Fa3, tmp_path: Path) -> None:
    edit_weights(llama, lambda tensors: [tensor.fill_(float("nan")) for tensor in tensors.values()])
    before = snapshot(tmp_path)
    code, out, err = fa3("quantize", llama, *calib, "--plan")
    assert code == 0 and all(line.startswith("warning: ") for line in err.splitlines())
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in out.splitlines() if "│" in row]
    assert ["act_method", "3", "recipe"] in [[*row[:2], row[2][:6]] for row in rows]
    assert ["numerics", "improved", "default"] in rows
    assert "3 float, for range_param" in " ".join(row[1] for row in rows)
    assert f"{llama}-w8a8-fa3" in "".join(row.split("│")[2].strip() for row in out.splitlines() if "│" in row)
    assert "3 samples with 31 tokens" in out and "*.down_proj" in out and "peak memory" in out
    code, out, _ = fa3("quantize", llama, *calib, "--plan", "--json", "--fa-amp", 1)
    planned = json.loads(out)
    assert code == 0
    assert (planned["layers"], planned["quantized_linears"], planned["attentions"]) == (3, 18, 3)
    assert planned["settings"]["fa_amp"] == 1 and planned["bytes_read"] > 0
    assert any("MindIE" in warning for warning in planned["warnings"])
    assert snapshot(tmp_path) == before


def test_a_recipe_with_schemes_is_planned_and_run(llama: Path, calib: list[str], fa3: Fa3, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[schemes]\n"*.mlp.*" = "w8a8-dynamic"\n"*.o_proj" = "w8a8-mix"\n')
    arguments = ["quantize", llama, *calib, "--recipe", recipe]
    code, out, _ = fa3(*arguments, "--plan")
    assert code == 0 and "*.mlp.*=w8a8-dynamic, *.o_proj=w8a8-mix" in values(out)
    assert "21: 9 W8A8, 3 W8A8_MIX, 9 W8A8_DYNAMIC" in values(out)
    code, _, err = fa3(*arguments)
    assert code == 0 and "schemes=*.mlp.*=w8a8-dynamic, *.o_proj=w8a8-mix (recipe" in err
    code, out, _ = fa3("report", f"{llama}-w8a8-fa3")
    assert code == 0 and "21: 9 W8A8, 3 W8A8_MIX, 9 W8A8_DYNAMIC" in values(out)


def values(tables: str) -> str:
    """Return the second column of all rows of tables; long values have several rows."""
    return " ".join(line.split("│")[2].strip() for line in tables.splitlines() if "│" in line)


def test_only_the_leading_rank_prints_a_plan(
    llama: Path, calib: list[str], fa3: Fa3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert fa3("quantize", llama, *calib, "--plan") == (0, "", "")


def test_a_plan_prints_warnings_on_stderr(llama: Path, calib: list[str], fa3: Fa3) -> None:
    code, out, err = fa3(
        "quantize",
        llama,
        *calib,
        "--plan",
        "--disable-names",
        "*.up_proj",
        "--fa-amp",
        9,
        "--numerics",
        "reference",
    )
    assert code == 0 and "half-float" not in out
    assert "half-float group" in err and "3 attention modules; all fall back" in err


def test_brackets_in_names_are_printed_unchanged(tmp_path: Path, fa3: Fa3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    folder = write_model(tmp_path / "model[v1]", patched=False)
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(9))
    arguments = ["quantize", folder, "--no-fa", "--calib", calib, "--disable-names", "*.[0-1].mlp.*"]
    assert "model[v1]" in fa3(*arguments, "--plan")[1]
    code, out, _ = fa3(*arguments)
    assert code == 0 and f"{folder}-w8a8-fa3: " in out


def test_help_lists_the_options(fa3: Fa3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fa3("quantize", "--help")
    assert code == 0
    assert not [option for option in OPTIONS.split() if option not in out]


# ---- errors


def line(text: str) -> Callable[[Path], None]:
    """Replace the second calibration line by this text."""

    def edit(folder: Path) -> None:
        file = folder.parent / "calib.jsonl"
        file.write_text(file.read_text().splitlines()[0] + f"\n{text}\n")

    return edit


def cut(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:-100])

    return edit


def cut_shard(folder: Path) -> None:
    split_weights(folder, 3)
    cut("model-00002-of-00003.safetensors")(folder)


def index_without(folder: Path) -> None:
    index = split_weights(folder, 2)
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["model.norm.weight"]
    write_index(folder, weight_map)


def edit_patched(folder: Path) -> None:
    file = folder / "modeling_llama_fa3.py"
    file.write_text(file.read_text() + "\n# by hand\n")


def occupy(folder: Path) -> None:
    folder.with_name("out").mkdir()
    (folder.with_name("out") / "mine").write_text("mine")


def not_a_number(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"].fill_(float("nan")))


def unpatch(folder: Path) -> None:
    from fa3cli import patching

    patching.undo(folder)


def nothing(_: Path) -> None:
    pass


# What is done to a valid folder, options, exit code, words of the message.
WRONG: dict[str, tuple[Callable[[Path], Any], list[str], int, tuple[str, ...]]] = {
    "no-config": (lambda f: (f / "config.json").unlink(), [], 5, ("config.json",)),
    "broken-config": (lambda f: (f / "config.json").write_text("{"), [], 5, ("config.json",)),
    "unknown-type": (lambda f: edit_config(f, model_type="nonesuch"), ["--no-fa"], 5, ("nonesuch",)),
    "bad-config-value": (lambda f: edit_config(f, hidden_act="nonesuch"), ["--no-fa"], 3, ("nonesuch",)),
    "no-weights": (lambda f: (f / WEIGHTS).unlink(), [], 5, ("no weights", WEIGHTS)),
    "truncated": (cut(WEIGHTS), [], 5, (WEIGHTS, "not a complete")),
    "truncated-shard": (cut_shard, [], 5, ("model-00002-of-00003.safetensors",)),
    "not-in-index": (index_without, [], 5, ("model.norm.weight",)),
    "nan": (not_a_number, [], 5, (WEIGHTS, "model.layers.2.mlp.up_proj.weight", "NaN")),
    "unpatched": (unpatch, [], 5, ("not patched", "fa3 patch", "--no-fa")),
    "edited-patch": (edit_patched, [], 4, ("modeling_llama_fa3.py", "changed since", "--trust-remote-code")),
    "occupied": (occupy, ["--output", "out"], 4, ("out: already holds",)),
    "no-calib": (nothing, ["--calib", "nowhere.jsonl"], 5, ("nowhere.jsonl",)),
    "empty-calib": (lambda f: (f.parent / "calib.jsonl").write_text(""), [], 5, ("calib.jsonl: empty",)),
    "broken-line": (line('{"text": '), [], 5, ("calib.jsonl, line 2", "not json")),
    "strange-line": (line('{"prompt": "x"}'), [], 5, ("calib.jsonl, line 2", "'prompt'")),
    "blank-line": (line('\n{"input_ids": [5]}'), [], 5, ("calib.jsonl, line 2",)),
    "no-tokenizer": (line('{"text": "In the beginning"}'), [], 5, ("no tokenizer", "input_ids")),
    "bad-token": (line('{"input_ids": [96]}'), [], 5, ("calib.jsonl, line 2", "vocabulary of 96")),
    "too-long": (line(json.dumps({"input_ids": [5] * 65})), [], 5, ("line 2: 65 tokens", "--max-length 64")),
    "bad-glob": (nothing, ["--disable-names", "*.up_porj"], 5, ("*.up_porj",)),
    "device": (nothing, ["--device", "npu:0"], 6, ("npu:0",)),
    "act-method": (nothing, ["--act-method", "4"], 3, ("act_method=4", "supported: 1, 2, 3")),
    "anti-method": (nothing, ["--anti-method", "m7"], 3, ("anti_method=m7", "m6")),
    "level": (nothing, ["--disable-level", "L05"], 2, ("'L05'", "L0 leaves none float")),
    "negative-level": (nothing, ["--disable-level", "L-1"], 2, ("'L-1'",)),
    "nearest-name": (nothing, ["--disable-names", "lm_haed"], 5, ("'lm_haed'", "nearest", "lm_head")),
    "bits": (nothing, ["--w-bit", "4"], 3, ("w_bit=4", "supported: 8")),
    "target": (nothing, ["--target", "tensorrt"], 2, ("--target", "vllm-ascend")),
    "target-refuses": (
        nothing,
        ["--target", "vllm", "--kv-cache-scheme", "tensor", "--fa-amp", "1"],
        3,
        ("target vllm", "1.0", "--no-fa"),
    ),
    "save-type-of-target": (
        nothing,
        ["--target", "vllm", "--save-type", "numpy"],
        3,
        ("numpy", "safe_tensor"),
    ),
    "recipe": (nothing, ["--recipe", "nonesuch"], 3, ("nonesuch", "qwen2.5-72b")),
    "numerics": (nothing, ["--numerics", "exact"], 3, ("numerics=exact", "reference")),
    "recipe-file": (nothing, ["--recipe", "mine.toml"], 5, ("mine.toml", "cannot be read")),
    "fa-score": (nothing, ["--fa-score", "best"], 3, ("fa_score=best",)),
    "negative": (nothing, ["--fa-amp", "-1"], 2, ("fa_amp",)),
    "not-a-number": (nothing, ["--fa-amp", "many"], 2, ("--fa-amp",)),
    "no-samples": (nothing, ["--samples", "0"], 2, ("--samples",)),
    "save-type": (nothing, ["--save-type", "onnx"], 2, ("onnx",)),
    "option": (nothing, ["--nonesuch"], 2, ("--nonesuch",)),
}


@pytest.mark.parametrize(("spoil", "options", "code", "words"), WRONG.values(), ids=WRONG)
def test_errors_are_reported_and_leave_no_files(
    llama: Path,
    fa3: Fa3,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], Any],
    options: list[str],
    code: int,
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(llama.parent)
    monkeypatch.setenv("COLUMNS", "200")
    spoil(llama)
    before = snapshot(llama.parent)
    calib = [] if "--calib" in options else ["--calib", "calib.jsonl"]
    found, out, err = fa3("quantize", llama, *calib, *options)
    assert (found, out) == (code, ""), err
    assert not [word for word in words if word not in err], err
    assert "Traceback" not in err
    assert snapshot(llama.parent) == before


def test_a_missing_folder_exits_5(fa3: Fa3, tmp_path: Path) -> None:
    code, out, err = fa3("quantize", tmp_path / "nowhere")
    assert (code, out) == (5, "") and "nowhere" in err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder in which root can write nothing either")
def test_an_output_that_cannot_be_created_exits_6(llama: Path, calib: list[str], fa3: Fa3) -> None:
    code, out, err = fa3("quantize", llama, *calib, "--output", "/proc/nowhere/out")
    assert (code, out) == (6, "")
    assert "/proc/nowhere" in err and "Traceback" not in err


# ---- as a process of its own


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **values}


def command(*arguments: object, python: str | Path = sys.executable) -> list[str]:
    return [str(python), "-m", "fa3cli", *map(str, arguments)]


@pytest.mark.parametrize(("interrupts", "code"), [(1, 75), (2, 130)])
def test_the_first_interrupt_finishes_the_layer_and_the_second_ends_at_once(
    qwen2_tiny: Path, interrupts: int, code: int
) -> None:
    lines = write_lines(qwen2_tiny.parent / "calib.jsonl", token_ids(*[400] * 40, vocab=2048))
    before = snapshot(qwen2_tiny.parent)
    run = subprocess.Popen(
        command("quantize", qwen2_tiny, "--calib", lines),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell, such as a CI run, ignore interrupts, and so would their child processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    journal = Path(f"{qwen2_tiny}-w8a8-fa3.journal")
    told = ""
    while "layer 2/4 done" not in told:
        told += run.stderr.readline()
    for _ in range(interrupts):
        run.send_signal(signal.SIGINT)
        time.sleep(0.1)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (code, ""), told + err
    assert "Traceback" not in err and "can resume" in err
    assert len(list(journal.glob("visits/visit-*.safetensors"))) == (3 if interrupts == 1 else 2)
    assert {name: data for name, data in snapshot(qwen2_tiny.parent).items() if "journal" not in name} == before
    again = subprocess.run(
        command("quantize", qwen2_tiny, "--calib", lines, "--resume", "required"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "layer 1/4" not in again.stderr and not journal.exists()


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_patch_quantize_and_verify_under_every_version(version: str, tmp_path: Path) -> None:
    python = ROOT / ".venvs" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment for transformers {version} (make versions)")
    folder = copy_model(EXAMPLES / "qwen2-tiny", tmp_path / "qwen2-tiny")
    output, text = tmp_path / "out", EXAMPLES / "qwen2-tiny-eval.jsonl"

    def fa3(*arguments: object) -> str:
        run = subprocess.run(
            command(*arguments, python=python),
            env=environment(HF_MODULES_CACHE=str(tmp_path / "cache")),
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    fa3("patch", folder, "--attention", "Qwen2Attention")
    calib = EXAMPLES / "qwen2-tiny-calib.jsonl"
    fa3("quantize", folder, "--output", output, "--calib", calib, "--fa-amp", 1)
    found = json.loads(fa3("verify", output, "--against", folder, "--eval", text, "--max-length", 64, "--json"))
    assert found["ok"] and not [finding for finding in found["findings"] if finding["severity"] == "error"]
    change = found["comparison"]["perplexity_quantized"] / found["comparison"]["perplexity_float"] - 1
    assert abs(change) < 0.01 and found["comparison"]["top1_agreement"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--part-file-size", "inf"], 2),
        (["--part-file-size", "1e300"], 2),
        (["--attn-implementation", "flash_attention_2"], 3),
        (["--dtype", "int8"], 3),
    ],
)
def test_impossible_values_are_refused(qwen2_tiny: Path, fa3: Fa3, arguments: list[str], code: int) -> None:
    found, out, err = fa3("quantize", qwen2_tiny, *arguments)
    assert (found, out) == (code, "") and arguments[0] in err and "Traceback" not in err


def test_a_plan_is_refused_if_the_run_would_be_refused(qwen2_tiny: Path, fa3: Fa3, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    code, out, err = fa3("quantize", qwen2_tiny, "--plan", "--output", tmp_path / "taken")
    assert (code, out) == (4, "") and "already holds something else" in err


def test_verify_of_a_numpy_export_exits_5(qwen2_tiny: Path, fa3: Fa3, tmp_path: Path) -> None:
    assert fa3("quantize", qwen2_tiny, "--samples", 1, "--save-type", "numpy", "--output", tmp_path / "o")[0] == 0
    code, out, err = fa3("verify", tmp_path / "o")
    assert (code, out) == (5, "") and "only a numpy export" in err


# ---- a plan without weights


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    return write_config(tmp_path / f"config-{tmp_path.name}")


def test_a_plan_needs_neither_weights_nor_a_tokenizer(weightless: Path, fa3: Fa3, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    code, out, err = fa3("quantize", weightless, "--plan")
    assert code == 0 and "50 samples with" in out and "about" in out and "timed" in out
    assert "no weights" in err and "no tokenizer" in err
    code, out, _ = fa3("quantize", weightless, "--plan", "--json")
    planned = json.loads(out)
    assert code == 0 and planned["seconds"] > 0 and planned["tokens"] > 50
    assert snapshot(tmp_path) == before


def test_an_unpatched_folder_without_weights_is_planned_with_no_fa(tmp_path: Path, fa3: Fa3) -> None:
    folder = write_config(tmp_path / "config", patched=False)
    assert fa3("quantize", folder, "--plan", "--no-fa")[0] == 0
    code, out, err = fa3("quantize", folder, "--plan")
    assert (code, out) == (5, "") and "not patched" in err


@pytest.mark.parametrize("file", [f"{WEIGHTS}.index.json", WEIGHTS, "pytorch_model.bin"])
def test_broken_weights_do_not_count_as_missing(weightless: Path, fa3: Fa3, file: str) -> None:
    (weightless / file).write_bytes(b"{}")
    code, out, err = fa3("quantize", weightless, "--plan")
    assert (code, out) == (5, "") and "error: " in err


def test_a_run_needs_weights(weightless: Path, fa3: Fa3) -> None:
    code, out, err = fa3("quantize", weightless)
    assert (code, out) == (5, "") and "no weights" in err


@pytest.mark.parametrize(("weights", "expected"), [(False, 0), (True, 6)])
def test_a_full_disk_refuses_a_plan_only_if_the_folder_has_weights(
    llama: Path, weightless: Path, fa3: Fa3, monkeypatch: pytest.MonkeyPatch, weights: bool, expected: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    calib = llama.parent / "calib.jsonl"
    code, out, err = fa3("quantize", llama if weights else weightless, "--plan", "--calib", calib)
    assert code == expected and "the export needs" in err
    assert bool(out) is not weights


def test_a_layer_that_cannot_be_timed_is_a_warning(
    llama: Path, calib: list[str], fa3: Fa3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> float:
        raise UnsupportedError("the forward reached its end")

    monkeypatch.setattr("fa3cli.api.estimate_seconds", refuse)
    code, out, err = fa3("quantize", llama, *calib, "--plan")
    assert code == 0 and "not estimated" in out and "reached its end" in err
