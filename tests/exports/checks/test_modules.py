from __future__ import annotations

import pytest

from fa3cli.exports.checks.modules import is_attention_tensor, is_norm_extra, owner


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.0.self_attn.fa_q.scale", "model.layers.0.self_attn"),
        ("model.layers.0.self_attn.q_proj.deq_scale", "model.layers.0.self_attn.q_proj"),
        ("model.norm.module.bias", "model.norm"),
        ("model.layers.0.self_attn.k_proj.kv_cache_scale", "model.layers.0.self_attn"),
        ("model.layers.0.self_attn.q_scale", "model.layers.0.self_attn"),
        ("model.norm.bias", "model.norm"),
    ],
)
def test_the_owner_of_a_tensor_is_its_module(name: str, module: str) -> None:
    assert owner(name) == module


def test_names_of_attention_and_norm_tensors_are_recognised() -> None:
    assert is_attention_tensor("a.fa_k.offset") and is_attention_tensor("a.k_proj.kv_cache_scale")
    assert not is_attention_tensor("a.fa_k.bias") and not is_attention_tensor("a.k_proj.weight_offset")
    assert is_norm_extra("a.module.weight") and not is_norm_extra("a.weight")
