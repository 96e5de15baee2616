"""Loads exports for vllm with transformers and compressed-tensors, and compares them with a simulation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import kl_div, linear

from fa3cli import api, patching
from fa3cli.samples.dataset import read_samples
from tests.conftest import EXAMPLES, SHARED_MODELS, copy_model

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

EVAL = EXAMPLES / "qwen2-tiny-eval.jsonl"
CALIB = EXAMPLES / "qwen2-tiny-calib.jsonl"
MODELS = {"shipped": EXAMPLES / "qwen2-tiny", "llama": SHARED_MODELS / "stories260k-llama"}


@pytest.fixture(scope="module", params=[*product(MODELS, ("attn_head", "tensor"))], ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a patched model and the folder of its float32 exports for modelslim and vllm."""
    folder = tmp_path_factory.mktemp("vllm")
    name, scheme = request.param
    model = copy_model(MODELS[name], folder / f"vllm-{name}")
    patching.patch(model)
    api.quantize(
        model,
        output=folder / "out",
        calib=CALIB,
        samples=6,
        max_length=128,
        dtype="float32",
        target=["modelslim", "vllm"],
        kv_cache_scheme=scheme,
    )
    return model, folder / "out"


def logits_of(model: nn.Module, folder: Path) -> Tensor:
    samples = read_samples(EVAL, folder, count=6, max_length=96)
    with torch.no_grad():
        return torch.cat([model(**sample.inputs(torch.device("cpu"))).logits[0] for sample in samples])


def loaded(folder: Path) -> nn.Module:
    """Load an export with transformers; no tensor may be missing or unexpected."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@contextmanager
def by_hand(folder: Path, export: Path) -> Iterator[nn.Module]:
    """Yield the patched float model with the export's float tensors; its linears and states are quantized here."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    tensors = load_file(export / "model.safetensors")
    model.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if tensor.dtype == torch.float32}, strict=False
    )
    for name, module in model.named_modules():
        if f"{name}.input_scale" in tensors:
            module.forward = int8_linear(module, name, tensors)
        elif f"{name}.q_scale" in tensors:
            scales = {role: tensors[f"{name}.{role}_scale"] for role in "qkv"}
            module.fa_quantizer.transform = lambda states, role, scales=scales: float8(states, scales[role])
    yield model


def int8_linear(module: nn.Linear, name: str, tensors: dict[str, Tensor]) -> object:
    weight = tensors[f"{name}.weight"].float() * tensors[f"{name}.weight_scale"]
    scale, zero_point = tensors[f"{name}.input_scale"], tensors[f"{name}.input_zero_point"].float()

    def forward(states: Tensor) -> Tensor:
        levels = torch.round(states / scale + zero_point).clamp(-128, 127)
        return linear((levels - zero_point) * scale, weight, module.bias)

    return forward


def float8(states: Tensor, scale: Tensor) -> Tensor:
    return (states / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(states.dtype) * scale


def divergence(expected: Tensor, found: Tensor) -> float:
    total = kl_div(found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="sum")
    return total.item() / len(found)


def test_transformers_computes_the_same_as_a_simulation_by_hand(made: tuple[Path, Path]) -> None:
    model, exports = made
    found = logits_of(loaded(exports / "vllm"), model)
    with by_hand(model, exports / "vllm") as simulated:
        expected = logits_of(simulated, model)
    assert (found - expected).abs().max() < 1e-4 < found.abs().max()


def test_attention_has_its_scales(made: tuple[Path, Path]) -> None:
    _, exports = made
    model, tensors = loaded(exports / "vllm"), load_file(exports / "vllm" / "model.safetensors")
    names = [name for name in tensors if name.endswith(("q_scale", "k_scale", "v_scale"))]
    assert len(names) == 3 * model.config.num_hidden_layers
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], tensors[name]) for name in names)


def test_an_export_for_vllm_is_close_to_the_simulated_modelslim_export(made: tuple[Path, Path], tmp_path: Path) -> None:
    """fp8 and int8 have different errors, and kernels for Ascend round the bias to integers."""
    model, exports = made
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=True).eval()
    found = divergence(logits_of(exact, model), logits_of(loaded(exports / "vllm"), model))
    simulated = api.compare(exports / "modelslim", model, EVAL, max_length=96)
    assert 0 < found < 5 * simulated.kl_divergence


def test_a_config_without_fa3_has_no_kv_cache_scheme(made: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = made
    options = {"calib": CALIB, "samples": 2, "max_length": 64, "dtype": "float32", "fa": False}
    api.quantize(model, output=tmp_path / "out", target=["vllm"], trust_remote_code=True, **options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"] is None and list(config["config_groups"]) == ["group_0"]
    loaded(tmp_path / "out")
