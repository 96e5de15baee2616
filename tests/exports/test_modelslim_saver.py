"""Tests that exports which msModelSlim's own v1 saver writes on this machine are valid (`make versions`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli.api import verify
from fa3cli.exports.verification import Finding
from tests.patching.matrix.environments import command, variables
from tests.sample_models import SIZES, write_model

MIXTURE = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama-bfloat16": {},
    "llama-float16": {},
    "qwen2-float16": {},  # with biases
    "qwen2-bfloat16": {"tie_word_embeddings": True},
    "deepseek_v3-bfloat16": MIXTURE,
}
STATIC, DYNAMIC, MIX = ({"*_proj": value} for value in ("W8A8", "W8A8_DYNAMIC", "W8A8_MIX"))
STATES = SIZES["num_key_value_heads"] * SIZES["head_dim"]
CASES: dict[str, dict[str, Any]] = {
    "static": {"weights": "llama-bfloat16", "schemes": STATIC},
    "static-float16": {"weights": "qwen2-float16", "schemes": STATIC},
    "dynamic": {"weights": "llama-float16", "schemes": DYNAMIC},
    "mix": {"weights": "qwen2-bfloat16", "schemes": MIX},
    "mixed": {"weights": "llama-bfloat16", "schemes": STATIC | {"*.mlp.*": "W8A8_DYNAMIC"}},
    "cache": {"weights": "qwen2-bfloat16", "schemes": STATIC, "cache": STATES},
    "cache-alone": {"weights": "llama-bfloat16", "schemes": {}, "cache": STATES},
    "rotation": {
        "weights": "llama-bfloat16",
        "schemes": STATIC,
        "rotation": SIZES["hidden_size"],
        "part_file_size": 0,
    },
    "latent": {
        "weights": "deepseek_v3-bfloat16",
        "schemes": {"*.mlp.*_proj": "W8A8_DYNAMIC", "*.o_proj": "W8A8"},
        "heads": SIZES["num_attention_heads"],
    },
}
# The models are tiny and have no tokenizer; config.json has no `quantize`, and no layer that predicts several tokens.
EXPECTED = {"tensor-parallel", "tokenizer", "config-quantize", "kv-kernels", "mindie-turbo", "mtp-layers"}


def surprises(export: Path, target: str | None) -> list[Finding]:
    report = verify(export, targets=() if target is None else (target,))
    return [finding for finding in report.findings if finding.severity == "error" or finding.check not in EXPECTED]


@pytest.mark.versions
def test_exports_of_msmodelslims_saver_are_valid(tmp_path: Path) -> None:
    pytest.importorskip("transformers.models.deepseek_v3")
    for name, sizes in MODELS.items():
        model_type, _, dtype = name.partition("-")
        write_model(tmp_path / name, model_type, patched=False, dtype=getattr(torch, dtype), **sizes)
    try:
        call = command("msmodelslim", "tests.exports.modelslim_saver", tmp_path, json.dumps(CASES))
    except FileNotFoundError as error:
        pytest.skip(f"{error} (make versions; msmodelslim 26.1.0 must be had)")
    done = subprocess.run(
        call, check=False, env=variables(tmp_path / "modules"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case, options in CASES.items():
        targets = [None, "vllm-ascend"] if "cache" in options else [None, "modelslim", "vllm-ascend"]
        for target in targets:
            assert surprises(tmp_path / case, target) == [], (case, target)
    (tmp_path / "rotation" / "optional" / "quarot.safetensors").unlink()
    assert [finding.check for finding in surprises(tmp_path / "rotation", None)] == ["rotation"]
