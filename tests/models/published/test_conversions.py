"""Tests that models whose published names differ from their own are loaded as transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from fa3cli.models.opening import open_model
from fa3cli.models.streamed_model import StreamedModel
from tests.sample_models import WEIGHTS, token_ids, write_model

MOE = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
QWEN = {**MOE, "num_experts": 12, "decoder_sparse_step": 1}
DEEPSEEK = {
    **MOE,
    "n_routed_experts": 12,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
# Types with other names in their checkpoints than in the newest transformers, or with tensors of another layout.
TYPES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 12, "num_experts_per_tok": 2},
    "qwen2_moe": {**QWEN, "shared_expert_intermediate_size": 40},
    "qwen3_moe": QWEN,
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": {**DEEPSEEK, "num_key_value_heads": 2},
    "deepseek_v2": {
        **DEEPSEEK,
        "q_lora_rank": None,
        "topk_method": "group_limited_greedy",
        "n_group": 3,
        "topk_group": 2,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.5,
    },
    "minimax_m2": {
        "num_local_experts": 12,
        "num_experts_per_tok": 2,
        "rotary_dim": 4,
        "use_qk_norm": True,
        "qk_norm_type": "per_layer",
        "use_routing_bias": True,
        "scoring_func": "sigmoid",
    },
    "ernie4_5_moe": {
        "moe_num_experts": 12,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
    },
    "hunyuan_v1_moe": {
        "num_experts": 12,
        "moe_topk": [2, 3, 2],
        "num_shared_expert": [1, 1, 1],
        "moe_intermediate_size": [48, 48, 48],
        "use_qk_norm": True,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_neox": {"num_key_value_heads": 4},
    "llama": {},
}


@pytest.fixture(params=TYPES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_model(tmp_path, request.param, patched=False, **TYPES[request.param])


@torch.no_grad()
def logits_of(model: StreamedModel, ids: Tensor) -> Tensor:
    with model.loaded(model.stored):
        return model.model(input_ids=ids).logits


def published(folder: Path) -> set[str]:
    with safe_open(folder / WEIGHTS, "pt") as file:
        return set(file.keys())


def test_it_computes_what_transformers_computes(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor(token_ids(9))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits
    found = logits_of(open_model(folder, fa=False), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_converters_of_transformers_5_0_return_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.core_model_loading import WeightConverter

    folder, ids = write_model(tmp_path, "mixtral", patched=False, **TYPES["mixtral"]), torch.tensor(token_ids(9))
    # Experts that cannot be linears are converted when they are read.
    monkeypatch.setattr("fa3cli.models.published.conversions.can_be_linears", lambda _: False)
    expected, convert = logits_of(open_model(folder, fa=False), ids), WeightConverter.convert
    monkeypatch.setattr(WeightConverter, "convert", lambda *given, **named: (convert(*given, **named), {}))
    assert torch.equal(logits_of(open_model(folder, fa=False), ids), expected)


def test_exports_have_the_published_names(folder: Path) -> None:
    model = open_model(folder, fa=False)
    assert published(folder) <= set(model.exported_names)
    assert not model.unknown
    stored = [source for name in model.stored for source in model.copied_for.get(name, (name,))]
    assert set(stored) == published(folder)


def test_a_linear_has_a_weight_of_its_published_name(folder: Path) -> None:
    model = open_model(folder, fa=False)
    assert {f"{name}.weight" for name in model.linears().keys() - model.tied_modules} <= published(folder)


def test_experts_keep_their_numbers(tmp_path: Path) -> None:
    """Expert 10 is not the third, although its name is sorted before that of expert 2."""
    folder = write_model(tmp_path, "mixtral", patched=False, **TYPES["mixtral"])
    model, name = open_model(folder, fa=False), "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
    for expert in range(12):
        wanted = name.format(expert)
        with safe_open(folder / WEIGHTS, "pt") as file, model.loaded([wanted]):
            assert torch.equal(model.tensor(wanted), file.get_tensor(wanted))
