"""Tests which tensors an export must hold for its config.json."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from fa3cli.models.export_skeleton import tensors_expected_in
from tests.models.published.test_conversions import TYPES, published
from tests.sample_models import WEIGHTS, edit_config, write_model


def test_it_needs_what_the_checkpoint_holds(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "mixtral", patched=False, **TYPES["mixtral"])
    model = tensors_expected_in(folder, published(folder))
    assert model is not None
    assert model.shapes == {name: tuple(tensor.shape) for name, tensor in load_file(folder / WEIGHTS).items()}
    assert "model.layers.0.block_sparse_moe.experts.1.w2" in model.linears
    assert "model.layers.0.block_sparse_moe.gate" not in model.linears


def test_either_name_of_a_tied_tensor_will_do(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False, tie_word_embeddings=True)
    model = tensors_expected_in(folder, published(folder))
    assert model is not None
    assert model.partners("lm_head.weight") == {"model.embed_tokens.weight"}
    assert model.partners("model.embed_tokens.weight") == {"lm_head.weight"}


def test_a_model_that_cannot_be_built_is_not_known(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_config(folder, model_type="mine", auto_map={"AutoConfig": "evil.Config"})
    assert tensors_expected_in(folder, published(folder)) is None
