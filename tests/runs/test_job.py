from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli import patching
from fa3cli.errors import (
    ConflictError,
    Fa3Error,
    InvalidInputError,
    MissingCapabilityError,
    UnsupportedError,
    UsageError,
)
from fa3cli.models.opening import open_model
from fa3cli.patching.origins.installed import installed_transformers
from tests.sample_models import edit_config, prepare, snapshot, token_ids, write_lines, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "calib.jsonl", token_ids(6, 9))


def test_a_job_has_a_recipe_samples_and_modules(folder: Path, calib: Path, tmp_path: Path) -> None:
    job = prepare(folder, calib=calib)
    assert job.folder == folder
    assert job.output == tmp_path / f"{folder.name}-w8a8-fa3"
    assert job.recipe == "llama3.1-70b" and job.settings.disable_names == ("*.down_proj",)
    assert (job.settings.anti_method, job.settings.act_method, job.settings.disable_level) == ("m3", 3, "L5")
    assert job.save_types == ("safe_tensor",) and job.part_bytes is None
    assert [sample.tokens for sample in job.samples] == [6, 9]
    assert len(job.quantized) == 3 * 6 and not any("down_proj" in name for name in job.quantized)
    assert "lm_head" not in job.quantized
    assert job.attentions == {f"model.layers.{index}.self_attn" for index in range(3)}
    assert job.model.dtype == torch.float32


def test_preparing_writes_nothing(folder: Path, calib: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    prepare(folder, calib=calib)
    assert snapshot(tmp_path) == before


def test_relative_folders_are_resolved(folder: Path, calib: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert prepare(Path("."), calib=calib).output == folder.with_name(f"{folder.name}-w8a8-fa3")
    assert prepare(Path("."), calib=calib, output=Path("../out")).output == folder.parent / "out"


def test_options_replace_the_recipe(folder: Path, calib: Path) -> None:
    job = prepare(
        folder,
        calib=calib,
        samples=1,
        max_length=4,
        disable_names=("*.up_proj",),
        fa_amp=2,
        part_file_size=0.5,
        save_types=["numpy", "safe_tensor", "numpy"],
    )
    assert "model.layers.0.mlp.down_proj" in job.quantized
    assert "model.layers.0.mlp.up_proj" not in job.quantized
    assert job.settings.fa_amp == 2 and job.part_bytes == 500_000_000
    assert job.save_types == ("numpy", "safe_tensor")
    assert [sample.tokens for sample in job.samples] == [4]


def test_a_disabled_attention_module_loses_only_fa3(folder: Path, calib: Path) -> None:
    job = prepare(folder, calib=calib, disable_names=("model.layers.1.self_attn",))
    assert job.attentions == {"model.layers.0.self_attn", "model.layers.2.self_attn"}
    assert "model.layers.1.self_attn.q_proj" in job.quantized
    assert len(job.quantized) == 3 * 7


def test_a_glob_over_a_layer_disables_linears_and_attention(folder: Path, calib: Path) -> None:
    job = prepare(folder, calib=calib, disable_names=("model.layers.1.*",))
    assert not any(module.startswith("model.layers.1.") for module in job.quantized | job.attentions)


def test_no_fa_quantizes_only_the_linears(folder: Path, calib: Path) -> None:
    job = prepare(folder, calib=calib, fa=False)
    assert job.attentions == frozenset() and len(job.quantized) == 18


@pytest.mark.parametrize(
    ("stored", "asked", "dtype"),
    [
        ("bfloat16", "auto", torch.bfloat16),
        ("float16", "auto", torch.float16),
        ("bfloat16", "float32", torch.float32),
    ],
)
def test_the_dtype_is_that_of_config_json_or_the_requested_one(
    tmp_path: Path, calib: Path, stored: str, asked: str, dtype: torch.dtype
) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", dtype=getattr(torch, stored))
    assert prepare(folder, calib=calib, dtype=asked).model.dtype == dtype


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_requested_attention_implementation_is_used(folder: Path, calib: Path, implementation: str) -> None:
    job = prepare(folder, calib=calib, attn_implementation=implementation)
    assert job.model.config._attn_implementation == implementation


def test_reference_numerics_are_eager_and_without_a_recipe(folder: Path, calib: Path, tmp_path: Path) -> None:
    by_option = prepare(folder, calib=calib, numerics="reference")
    assert (by_option.recipe, by_option.settings.disable_names) == ("none", ())
    (tmp_path / "mine.toml").write_text('numerics = "reference"\ndisable_names = ["lm_head"]\n')
    by_recipe = prepare(folder, calib=calib, recipe=str(tmp_path / "mine.toml"))
    assert by_recipe.settings.reference and by_recipe.settings.disable_names == ("lm_head",)
    assert {job.model.config._attn_implementation for job in (by_option, by_recipe)} == {"eager"}
    with_sdpa = prepare(folder, calib=calib, numerics="reference", attn_implementation="sdpa")
    assert with_sdpa.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"act_method": 4}, UnsupportedError, "act_method=4"),
        ({"anti_method": "m7"}, UnsupportedError, "anti_method=m7"),
        ({"disable_level": "L05"}, UsageError, "disable_level is 'L05'"),
        ({"disable_level": "L-1"}, UsageError, "disable_level is 'L-1'"),
        ({"w_sym": False}, UnsupportedError, "w_sym"),
        ({"pr": 0.5}, UnsupportedError, "pr=0.5"),
        ({"fa_score": "nonesuch"}, UnsupportedError, "fa_score"),
        ({"numerics": "exact"}, UnsupportedError, "numerics"),
        ({"target": ["tensorrt"]}, UsageError, "modelslim, mindie, vllm-ascend, vllm"),
        ({"target": ["mindie"], "fa_amp": 1}, UnsupportedError, "MindIE-LLM 3.0 asserts that every layer"),
        (
            {"target": ["vllm-ascend"], "save_types": ["numpy"]},
            UnsupportedError,
            "save_type numpy for target vllm",
        ),
        ({"w_bit": 4}, UnsupportedError, "w_bit=4"),
        ({"a_bit": 16}, UnsupportedError, "a_bit=16"),
        ({"recipe": "unknown"}, UnsupportedError, "qwen2.5-72b"),
        ({"attn_implementation": "unknown"}, UnsupportedError, "unknown"),
        ({"fa_amp": -1}, UsageError, "fa_amp"),
        ({"save_types": ["onnx"]}, UsageError, "onnx"),
        ({"dtype": "float64"}, Fa3Error, "float64"),
        ({"device": "npu:0"}, MissingCapabilityError, "npu:0"),
        ({"disable_names": ("*.up_porj",)}, InvalidInputError, "*.up_porj"),
        ({"disable_names": ("*.up_proj", "model.layers.3.*")}, InvalidInputError, "model.layers.3.*"),
    ],
)
def test_unsupported_options_are_refused_by_name(
    folder: Path, calib: Path, options: dict[str, Any], error: type[Fa3Error], words: str
) -> None:
    with pytest.raises(error) as raised:
        prepare(folder, calib=calib, **options)
    assert words in f"{raised.value} {raised.value.hint}"


def test_a_sample_longer_than_the_model_accepts_is_refused(folder: Path, tmp_path: Path) -> None:
    calib = write_lines(tmp_path / "long.jsonl", token_ids(64, 65))
    with pytest.raises(InvalidInputError, match="line 2: 65 tokens, but the model accepts at most 64"):
        prepare(folder, calib=calib)
    assert len(prepare(folder, calib=calib, max_length=64).samples) == 2


def test_a_pipeline_is_not_a_language_model(tmp_path: Path, calib: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for options in ({}, {"fa": False}, {"only_plan": True}):
        with pytest.raises(UnsupportedError, match="pipeline of diffusers"):
            prepare(tmp_path, calib=calib, **options)


def test_an_unpatched_folder_needs_the_patch_or_no_fa(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "plain", patched=False)
    with pytest.raises(InvalidInputError, match="not patched") as raised:
        prepare(folder, calib=calib)
    assert raised.value.exit_code == 5
    assert "fa3 patch" in raised.value.hint and "--no-fa" in raised.value.hint
    assert not prepare(folder, calib=calib, fa=False).attentions


# Code of a folder that leaves a trace when it is run.
TRACE = "import pathlib as _p; _p.Path({!r}).write_text('ran')\n"


def leave_trace(module: Path, trace: Path) -> None:
    module.write_text(TRACE.format(str(trace)) + module.read_text().replace("from __future__ import annotations", ""))


def test_a_file_edited_after_the_patch_is_not_run(folder: Path, calib: Path, tmp_path: Path) -> None:
    leave_trace(folder / "modeling_llama_fa3.py", tmp_path / "trace")
    with pytest.raises(ConflictError, match="modeling_llama_fa3.py") as raised:
        prepare(folder, calib=calib)
    assert raised.value.exit_code == 4 and "--trust-remote-code" in raised.value.hint
    prepare(folder, calib=calib, fa=False)
    assert not (tmp_path / "trace").exists()
    assert prepare(folder, calib=calib, trust_remote_code=True).attentions
    assert (tmp_path / "trace").exists()


def test_a_receipt_does_not_make_code_trusted(folder: Path, calib: Path, tmp_path: Path) -> None:
    from fa3cli.patching.folders.receipt import RECEIPT, sha256

    module = folder / "modeling_llama_fa3.py"
    before = sha256(module.read_bytes())
    leave_trace(module, tmp_path / "trace")
    receipt = folder / RECEIPT
    receipt.write_text(receipt.read_text().replace(before, sha256(module.read_bytes())))
    with pytest.raises(ConflictError):
        prepare(folder, calib=calib)
    assert not (tmp_path / "trace").exists()


def test_an_auto_map_to_other_code_is_refused(folder: Path, calib: Path, tmp_path: Path) -> None:
    (folder / "configuration_mine.py").write_text(
        TRACE.format(str(tmp_path / "trace")) + "from transformers import LlamaConfig as Mine\n"
    )
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_config(folder, auto_map=auto_map | {"AutoConfig": "configuration_mine.Mine"})
    with pytest.raises(ConflictError):
        prepare(folder, calib=calib)
    assert not (tmp_path / "trace").exists()


def test_code_in_an_unpatched_folder_needs_trust(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / f"own-{tmp_path.name}", patched=False)
    (folder / "modeling_mine.py").write_text(
        TRACE.format(str(tmp_path / "trace")) + "import transformers\nclass Mine(transformers.LlamaForCausalLM): pass\n"
    )
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    prepare(folder, calib=calib, fa=False)
    with pytest.raises(InvalidInputError, match="not patched"):
        prepare(folder, calib=calib)
    assert not (tmp_path / "trace").exists()
    prepare(folder, calib=calib, fa=False, trust_remote_code=True)
    assert (tmp_path / "trace").exists()


def test_a_given_modeling_file_needs_trust(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / f"given-{tmp_path.name}", patched=False)
    patching.patch(folder, modeling=installed_transformers().modeling_file("llama").path)
    with pytest.raises(ConflictError, match="modeling_llama_fa3.py"):
        prepare(folder, calib=calib)
    assert prepare(folder, calib=calib, trust_remote_code=True).attentions


def test_opening_twice_gives_separate_quantizers(folder: Path) -> None:
    first, second = open_model(folder, fa=True), open_model(folder, fa=True)
    quantizers = [list(model.attentions().values()) for model in (first, second)]
    assert not {*map(id, quantizers[0])} & {*map(id, quantizers[1])}
