"""Tests whole runs of mixtures of experts, and of linears with several schemes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fa3cli import Calibrator, QuantConfig, api
from fa3cli.errors import UnsupportedError
from fa3cli.exports.checks import CHECKS
from fa3cli.exports.verification import verify_export
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.runs.options import RunOptions
from tests.conftest import ROOT
from tests.models.published.test_conversions import TYPES, published
from tests.sample_models import WEIGHTS, edit_config, edit_weights, snapshot, token_ids, write_lines, write_model

MIXTURES = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "minimax_m2",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
]
FILE, DESCRIPTION = "quant_model_weight_w8a8_dynamic.safetensors", "quant_model_description.json"


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("calib") / "calib.jsonl", token_ids(16, 12, 20))


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("mixtral") / "mixtral", "mixtral", **TYPES["mixtral"])


def described(output: Path) -> dict[str, str]:
    return json.loads((output / DESCRIPTION).read_text())


def dequantized(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[name].float() * tensors[f"{name}_scale"]


@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_are_dynamic_and_routers_float_under_published_names(
    model_type: str, tmp_path: Path, calib: Path
) -> None:
    folder = write_model(tmp_path / model_type, model_type, **TYPES[model_type])
    output = api.quantize(folder, tmp_path / "out", calib=calib, recipe="none").output
    values, tensors, source = described(output), load_file(output / FILE), load_file(folder / WEIGHTS)
    assert values["model_quant_type"] == "W8A8_DYNAMIC"
    assert {name for name in source if name not in tensors} == set()
    for name, weight in source.items():
        assert tensors[name].shape == weight.shape
        if ".experts." in name:
            assert values[name] == "W8A8_DYNAMIC"
            torch.testing.assert_close(dequantized(tensors, name), weight, rtol=0, atol=0.02)
        elif name.endswith((".gate.weight", ".gate.wg.weight", "_gate.weight", "kv_b_proj.weight", "_bias")):
            assert values[name] == "FLOAT" and torch.equal(tensors[name], weight)
        elif "self_attn" in name and name.endswith("_proj.weight"):
            assert values[name] == "W8A8"
    assert verify_export(output).ok


def test_two_ranks_make_the_same_export(mixtral: Path, tmp_path: Path, calib: Path) -> None:
    whole = api.quantize(mixtral, tmp_path / "whole", calib=calib).output
    command = [sys.executable, "-m", "fa3cli", "quantize", mixtral, "--calib", calib, "--nproc", "2", "--output"]
    done = subprocess.run([*command, tmp_path / "shared"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, other = snapshot(whole), snapshot(tmp_path / "shared")
    del one["fa3_report.json"], other["fa3_report.json"]
    assert one == other


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w1"),
        ("qwen3_moe", "model.layers.0.mlp.experts.10.gate_proj"),
        ("ernie4_5_moe", "model.layers.2.mlp.experts.7.up_proj"),
    ],
)
def test_an_expert_computes_int8_arithmetic(model_type: str, name: str, tmp_path: Path, calib: Path) -> None:
    """The simulated expert equals npu_dynamic_quant and npu_quant_matmul, written out here."""
    from fa3cli.models.opening import open_model
    from fa3cli.quantization.simulation.engine_model import simulate

    folder = write_model(tmp_path / model_type, model_type, **TYPES[model_type])
    output = api.quantize(folder, tmp_path / "out", calib=calib).output
    tensors, model = load_file(output / FILE), open_model(folder, fa=True)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    simulate(model.model, shapes, torch.int64, model.published.module)
    linear = model.module(name)
    linear.load_state_dict({leaf: tensors[f"{name}.{leaf}"] for leaf in ("weight", "weight_scale")}, assign=True)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    scale = states.abs().amax(1, keepdim=True) / 127
    levels = torch.round(states / scale).clamp(-127, 127).int()
    sums = levels @ tensors[f"{name}.weight"].int().T
    expected = sums.float() * tensors[f"{name}.weight_scale"].flatten() * scale
    torch.testing.assert_close(linear(states), expected, rtol=1e-5, atol=1e-6)


def test_an_expert_that_no_sample_reaches_is_quantized(mixtral: Path, tmp_path: Path) -> None:
    one = write_lines(tmp_path / "one.jsonl", [[5, 6]])
    output = api.quantize(mixtral, tmp_path / "out", calib=one).output
    experts = [value for name, value in described(output).items() if ".experts." in name]
    assert set(experts) == {"W8A8_DYNAMIC"}


@pytest.mark.parametrize("target", ["mindie", "vllm-ascend", "vllm"])
def test_each_target_verifies(target: str, mixtral: Path, tmp_path: Path, calib: Path) -> None:
    output = api.quantize(mixtral, tmp_path / "out", calib=calib, target=target).output
    report = verify_export(output)
    assert report.ok and report.target == target
    config = json.loads((output / "config.json").read_text())
    if target == "vllm":
        groups = config["quantization_config"]["config_groups"]
        assert groups["group_1"]["targets"] == [r"re:.*\.experts\.\d+\..*"]
        assert groups["group_1"]["input_activations"]["strategy"] == "token"
    else:
        assert config["quantize"] == "w8a8_dynamic"
        assert (output / FILE).exists()


def test_two_halves_make_one_run(mixtral: Path, tmp_path: Path, calib: Path) -> None:
    whole = api.quantize(mixtral, tmp_path / "whole", calib=calib, save_types=["safe_tensor", "numpy"]).output
    api.calibrate(mixtral, tmp_path / "kept", calib=calib)
    made = api.export(mixtral, tmp_path / "kept", tmp_path / "made", save_types=["safe_tensor", "numpy"]).output
    one, other = snapshot(whole), snapshot(made)
    del one["fa3_report.json"], other["fa3_report.json"]
    assert one == other


def test_the_comparison_simulates_experts(mixtral: Path, tmp_path: Path, calib: Path) -> None:
    output = api.quantize(mixtral, tmp_path / "out", calib=calib).output
    found = api.compare(output, mixtral, calib)
    assert 0 < found.kl_divergence < 0.2


@pytest.mark.parametrize("model_type", ["qwen3_moe", "granitemoe"])
def test_a_model_in_memory_makes_the_export_of_its_folder(model_type: str, tmp_path: Path, calib: Path) -> None:
    """transformers 5 holds the experts as one tensor; granitemoe publishes tensors that are joined and split."""
    folder = write_model(tmp_path / "model", model_type, patched=False, **TYPES[model_type])
    ids = [torch.tensor([json.loads(line)["input_ids"]]) for line in calib.read_text().splitlines()]
    found = []
    for number, model in enumerate([str(folder), AutoModelForCausalLM.from_pretrained(folder)]):
        calibrator = Calibrator(model, QuantConfig(disable_names=["lm_head"]), [[tensor] for tensor in ids])
        calibrator.run()
        output = tmp_path / str(number)
        calibrator.save(output, save_type=["safe_tensor"])
        [file] = output.glob("quant_model_weight*.safetensors")
        found.append((described(output), load_file(file)))
    (values, tensors), (others, same) = found
    assert values == others and tensors.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())


def test_unknown_tensors_are_copied_and_named(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "mixtral", "mixtral", **TYPES["mixtral"])
    extra = {"model.layers.3.eh_proj.weight": torch.ones(2, 3), "model.layers.3.counts": torch.arange(3)}
    edit_weights(folder, lambda tensors: tensors.update(extra))
    result = api.quantize(folder, tmp_path / "out", calib=calib)
    tensors, values = load_file(result.output / FILE), described(result.output)
    for name, tensor in extra.items():
        assert torch.equal(tensors[name], tensor) and values[name] == "FLOAT"
    assert api.verify(result.output).ok
    [job] = api.jobs_of(RunOptions(folder, calib=calib))
    assert any("model.layers.3." in line and "and 1 other" in line for line in api.plan(job).warnings)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_a_plan_without_weights_counts_the_experts(model_type: str, tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / model_type, model_type, **TYPES[model_type])
    [job] = api.jobs_of(RunOptions(folder, calib=calib, only_plan=True))
    whole = api.plan(job)
    (folder / WEIGHTS).unlink()
    [job] = api.jobs_of(RunOptions(folder, calib=calib, only_plan=True))
    planned = api.full_plan(job)
    assert planned.quantized_linears == whole.quantized_linears
    assert planned.bytes_written == whole.bytes_written
    assert planned.peak_memory == whole.peak_memory and planned.seconds is not None


def test_fused_experts_stay_float(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "gpt_oss", "gpt_oss", patched=False, **TYPES["gpt_oss"])
    output = api.quantize(folder, tmp_path / "out", calib=calib, fa=False).output
    assert {value for name, value in described(output).items() if ".experts." in name} == {"FLOAT"}
    assert published(folder) <= described(output).keys()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scheme": "w8a8-mix"}, {"q_proj": "W8A8_MIX", "down_proj": "W8A8_MIX"}),
        ({"scheme": "w8a8-dynamic"}, {"q_proj": "W8A8_DYNAMIC", "down_proj": "W8A8_DYNAMIC"}),
        ({"schemes": {"*.mlp.*": "w8a8-dynamic"}}, {"q_proj": "W8A8", "down_proj": "W8A8_DYNAMIC"}),
    ],
)
def test_schemes_of_a_dense_model(
    options: dict[str, Any], expected: dict[str, str], tmp_path: Path, calib: Path
) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    output = api.quantize(folder, tmp_path / "out", calib=calib, recipe="none", **options).output
    values = described(output)
    found = {leaf: values[f"model.layers.0.{path}.{leaf}.weight"] for path, leaf in
             (("self_attn", "q_proj"), ("mlp", "down_proj"))}  # fmt: skip
    assert found == expected
    assert verify_export(output).ok
    assert api.compare(output, folder, calib).kl_divergence < 0.2


def test_mix_has_the_tensors_of_w8a8(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    static, mix = (
        api.quantize(folder, tmp_path / name, calib=calib, scheme=name).output for name in ("w8a8", "w8a8-mix")
    )
    one = load_file(static / "quant_model_weight_w8a8.safetensors")
    other = load_file(mix / "quant_model_weight_w8a8_mix.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_latent_attention_stays_without_fa3(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "deepseek", "deepseek_v3", **TYPES["deepseek_v3"])
    [job] = api.jobs_of(RunOptions(folder, calib=calib))
    assert not job.attentions and any("latent attention (MLA)" in line for line in api.plan(job).warnings)
    with pytest.raises(UnsupportedError, match="--fa: .* is latent attention"):
        api.jobs_of(RunOptions(folder, calib=calib, fa=True))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_routers_are_named_as_float(model_type: str, tmp_path: Path, calib: Path) -> None:
    """vLLM reads a router that `ignore` omits as int8."""
    folder = write_model(tmp_path / model_type, model_type, patched=False, **TYPES[model_type])
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.3.eh_proj.weight": torch.ones(2, 3)}))
    result = api.quantize(folder, tmp_path / "out", calib=calib, fa=False, target="vllm")
    router = "model.layers.1.mlp." + ("gate" if model_type == "qwen3_moe" else "router")
    ignored = json.loads((result.output / "config.json").read_text())["quantization_config"]["ignore"]
    assert {router, "model.layers.3.eh_proj", "lm_head"} <= set(ignored)
    assert router in result.layers[1].float_linears
    assert [finding for finding in verify_export(result.output).findings if finding.check == "ignore"] == []


def test_a_layer_with_some_float_experts_is_refused_for_engines_that_fuse_them(
    mixtral: Path, tmp_path: Path, calib: Path
) -> None:
    options = {"calib": calib, "disable_names": ["*.experts.0.*"]}
    with pytest.raises(UnsupportedError, match="another scheme than other experts"):
        api.quantize(mixtral, tmp_path / "out", target="vllm-ascend", **options)
    output = api.quantize(mixtral, tmp_path / "out", **options).output
    found = {finding.check: finding.severity for finding in verify_export(output, ["vllm-ascend"]).findings}
    assert found["experts"] == "error"
    assert {finding.severity for finding in verify_export(output).findings if finding.check == "experts"} == {"warning"}


def test_static_experts_are_refused_for_engines_without_them(mixtral: Path, tmp_path: Path, calib: Path) -> None:
    options = {"calib": calib, "target": "vllm-ascend", "schemes": [("*.experts.*", "w8a8")]}
    with pytest.raises(UnsupportedError, match="experts whose inputs have a stored scale"):
        api.quantize(mixtral, tmp_path / "out", **options)


EXPERT = "model.layers.1.block_sparse_moe.experts.3"
ROUTER = "model.layers.1.block_sparse_moe.gate"


def drop(*names: str) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    def mutate(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
        for name in [name for name in tensors if name.startswith(names)]:
            del tensors[name], values[name]

    return mutate


def quantize_router(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
    made = quantize_dynamic_linear(tensors[f"{ROUTER}.weight"], torch.float32)
    tensors.update({f"{ROUTER}.{leaf}": tensor for leaf, tensor in made.items()})
    values.update({f"{ROUTER}.{leaf}": "W8A8_DYNAMIC" for leaf in made})


def make_static(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
    for leaf in ("weight", "weight_scale", "weight_offset"):
        values[f"{EXPERT}.w1.{leaf}"] = "W8A8"


def describe_float(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
    values[f"{EXPERT}.w1.weight"] = "FLOAT"


def exchange(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
    """Exchange two experts: all tensors of both are valid."""
    other = EXPERT.replace("experts.3", "experts.5")
    for name in [name for name in tensors if name.startswith(EXPERT)]:
        swapped = name.replace(EXPERT, other)
        tensors[name], tensors[swapped] = tensors[swapped], tensors[name]


def set_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    def mutate(tensors: dict[str, Tensor], values: dict[str, str]) -> None:
        tensors[name] = change(tensors[name]).contiguous()

    return mutate


MUTATIONS = {
    "tensors": drop(EXPERT),
    "tensors-router": drop(ROUTER),
    "tensors-norm": drop("model.norm"),
    "linears": drop(f"{EXPERT}.w2.weight_scale"),
    "linears-offset": drop(f"{EXPERT}.w2.weight_offset"),
    "tensors-linear": drop(f"{EXPERT}.w3.weight"),
    "linears-static": make_static,
    "linears-float": describe_float,
    "quantizable": quantize_router,
    "config-sizes": set_tensor(f"{ROUTER}.weight", lambda tensor: tensor[:-1]),
    "config-sizes-norm": set_tensor("model.norm.weight", lambda tensor: tensor[:-1]),
    "linear-shapes": set_tensor(f"{EXPERT}.w1.weight_scale", lambda tensor: tensor[:-1]),
    "linear-shapes-flat": set_tensor(f"{EXPERT}.w1.weight_scale", Tensor.flatten),
    "dtypes": set_tensor(f"{EXPERT}.w1.weight_scale", Tensor.half),
    "dtypes-weight": set_tensor(f"{EXPERT}.w1.weight", Tensor.int),
    "scales": set_tensor(f"{EXPERT}.w1.weight_scale", torch.zeros_like),
    "scales-negative": set_tensor(f"{EXPERT}.w1.weight_scale", Tensor.neg),
    "offsets": set_tensor(f"{EXPERT}.w1.weight_offset", torch.ones_like),
    "weight-range": set_tensor(f"{EXPERT}.w1.weight", lambda tensor: torch.full_like(tensor, -128)),
    "checksums": exchange,
    "checksums-rows": set_tensor(f"{EXPERT}.w1.weight_scale", lambda tensor: tensor.roll(1, 0)),
    "checksums-weight": set_tensor(f"{EXPERT}.w1.weight", lambda tensor: tensor.flip(0)),
    "checksums-router": set_tensor(f"{ROUTER}.weight", lambda tensor: tensor.flip(0)),
    "finite": set_tensor(f"{ROUTER}.weight", lambda tensor: tensor * torch.nan),
}


@pytest.fixture(scope="module")
def sound(mixtral: Path, calib: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.quantize(mixtral, tmp_path_factory.mktemp("sound") / "out", calib=calib).output


@pytest.mark.parametrize("name", MUTATIONS)
def test_verify_finds_a_mutation_of_a_mixture(name: str, sound: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(sound, output)
    tensors, values = load_file(output / FILE), described(output)
    MUTATIONS[name](tensors, values)
    save_file(tensors, output / FILE)
    for file in output.glob("quant_model_description*.json"):
        file.write_text(json.dumps(values))
    errors = [finding for finding in api.verify(output).findings if finding.severity == "error"]
    assert {finding.check for finding in errors} == {
        max((check for check in CHECKS if name.startswith(check)), key=len)
    }


def test_verify_accepts_the_export_itself(sound: Path) -> None:
    assert api.verify(sound).ok


@pytest.mark.versions
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_transformers_4_and_5_make_the_same_export(model_type: str, tmp_path: Path, calib: Path) -> None:
    """Experts are a list of linears in transformers 4, and fused in transformers 5."""
    source, found = write_model(tmp_path / "source", model_type, patched=False, **TYPES[model_type]), []
    edit_config(source, num_experts=12)  # published configs of qwen3_moe have this name, new versions write another
    for version in ("4.57.6", "5.23.0"):
        python, folder = ROOT / ".venvs" / version / "bin" / "python", tmp_path / version / "model"
        if not python.exists():
            pytest.skip(f"no environment for transformers {version} (make versions)")
        shutil.copytree(source, folder)
        output = tmp_path / version / "out"
        command = [python, "-m", "tests.runs.quantize_mixture", folder, calib, output]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append((described(output), load_file(output / FILE)))
    (older, tensors), (newer, others) = found
    assert older == newer
    for name, tensor in tensors.items():
        if ".experts." in name or tensor.dtype == torch.int8:
            assert torch.equal(tensor, others[name])
        elif tensor.is_floating_point():
            torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=0)
