"""Tests the published names of modules and tensors."""

from __future__ import annotations

from fa3cli.models.published.names import Conversion, PublishedNames

MIXTURE = {
    "model.layers.0.mlp.gate.weight": "model.layers.0.block_sparse_moe.gate.weight",
    "model.layers.0.mlp.gate.bias": "model.layers.0.block_sparse_moe.bias",
    "model.layers.0.mlp.experts.0.w1.weight": "model.layers.0.block_sparse_moe.experts.0.w1.weight",
    "model.layers.0.input_layernorm.weight": "model.layers.0.input_layernorm.weight",
}


def test_without_renames_names_are_the_models() -> None:
    names = PublishedNames()
    assert names.tensor("a.b.weight") == "a.b.weight"
    assert names.module("a.b") == "a.b"
    assert names.tensor("weight") == "weight"


def test_a_module_has_the_prefix_of_its_tensors() -> None:
    names = PublishedNames(MIXTURE)
    assert names.module("model.layers.0.mlp.experts.0.w1") == "model.layers.0.block_sparse_moe.experts.0.w1"
    assert names.module("model.layers.0.mlp") == "model.layers.0.block_sparse_moe"
    assert names.module("model.layers.0") == "model.layers.0"


def test_the_tensor_with_the_longest_common_rest_names_a_module() -> None:
    assert PublishedNames(MIXTURE).module("model.layers.0.mlp.gate") == "model.layers.0.block_sparse_moe.gate"


def test_tensors_that_are_added_to_a_module_have_its_prefix() -> None:
    names = PublishedNames(MIXTURE)
    assert names.tensor("model.layers.0.mlp.gate.weight_scale") == "model.layers.0.block_sparse_moe.gate.weight_scale"
    assert names.module("model.layers.0.mlp.new") == "model.layers.0.block_sparse_moe.new"


def test_a_prefix_that_is_added_or_removed() -> None:
    names = PublishedNames({"model.layers.0.up.weight": "layers.0.up.weight", "lm_head.weight": "embed_out.weight"})
    assert names.module("model.layers.0.up") == "layers.0.up"
    assert names.module("lm_head") == "embed_out"


def test_a_converted_tensor_keeps_the_models_name() -> None:
    conversion = Conversion(("layers.0.q_conv", "layers.0.k_conv"), ("model.layers.0.conv",), dict)
    names = PublishedNames({"model.layers.0.up.weight": "layers.0.up.weight"}, [conversion])
    assert names.tensor("model.layers.0.conv") == "model.layers.0.conv"
