from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.models.layered_model import _decoder_layers
from fa3cli.models.opening import open_model
from fa3cli.models.streamed_model import StreamedModel
from tests.models.published.test_conversions import TYPES
from tests.sample_models import WEIGHTS, edit_weights, write_model

LAYER = "model.layers.1"


def open_llama(folder: Path, *, patched: bool = False, **options: object) -> StreamedModel:
    return open_model(write_model(folder, patched=patched, **options), fa=patched)


def on_meta(model: StreamedModel) -> set[str]:
    return {name for name, tensor in model.model.state_dict().items() if tensor.is_meta}


def test_weights_are_loaded_only_within_the_block(tmp_path: Path) -> None:
    model = open_llama(tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    assert on_meta(model) == set(model.names) == set(stored)
    names = model.of_layer[LAYER]
    assert names and all(name.startswith(f"{LAYER}.") for name in names)
    with model.loaded(names):
        assert on_meta(model) == set(model.names) - set(names)
        assert all(torch.equal(model.tensor(name), stored[name]) for name in names)
    assert on_meta(model) == set(model.names)


def test_weights_are_unloaded_after_an_error(tmp_path: Path) -> None:
    model = open_llama(tmp_path)
    with pytest.raises(ArithmeticError), model.loaded(model.of_layer[LAYER]):
        raise ArithmeticError
    assert on_meta(model) == set(model.names)


def test_layers_and_the_rest_contain_every_tensor_once(tmp_path: Path) -> None:
    model = open_llama(tmp_path)
    in_layers = [name for layer in model.layers for name in model.of_layer[layer]]
    assert list(model.layers) == [f"model.layers.{index}" for index in range(3)]
    assert sorted(in_layers + model.outside) == sorted(model.names)
    assert set(model.outside) == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert (model.head, model.of_layer["lm_head"]) == ("lm_head", ["lm_head.weight"])
    assert model.needed("lm_head") == model.outside and model.needed(LAYER) == model.of_layer[LAYER]
    assert set(model.before_layers) == {"model.embed_tokens.weight", "model.norm.weight"}


def test_attentions_of_a_patched_model_are_found_by_layer(tmp_path: Path) -> None:
    model = open_llama(tmp_path, patched=True)
    assert list(model.attentions(LAYER)) == [f"{LAYER}.self_attn"]
    assert len(model.attentions()) == 3
    assert next(iter(model.linears(LAYER))) == f"{LAYER}.self_attn.q_proj"
    assert list(model.linears())[-1] == "lm_head"


@pytest.mark.parametrize(
    ("stored", "asked"),
    [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.float32, "float16")],
)
def test_tensors_are_cast_to_the_dtype_of_the_run(tmp_path: Path, stored: torch.dtype, asked: str) -> None:
    model = open_model(write_model(tmp_path, patched=False, dtype=stored), fa=False, dtype=asked)
    name = f"{LAYER}.mlp.up_proj.weight"
    with model.loaded([name]):
        assert torch.equal(model.tensor(name), load_file(tmp_path / WEIGHTS)[name].to(model.dtype))
        assert model.tensor(name).dtype == model.dtype == getattr(torch, asked)


def test_a_tied_head_is_loaded_and_unloaded_with_the_embedding(tmp_path: Path) -> None:
    model = open_llama(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" in model.names and "lm_head.weight" not in model.stored
    assert model.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    for _ in range(2):
        with model.loaded(model.outside):
            assert torch.equal(model.tensor("lm_head.weight"), model.tensor("model.embed_tokens.weight"))
        assert on_meta(model) == set(model.names)


def test_a_tied_head_may_also_be_stored(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False, tie_word_embeddings=True)
    edit_weights(
        folder,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
    )
    assert "lm_head.weight" in open_model(folder, fa=False).stored


def refused(folder: Path, *words: str, error: type[Fa3Error] = InvalidInputError) -> None:
    with pytest.raises(error) as raised:
        open_model(folder, fa=False)
    for word in (str(folder), *words):
        assert word in f"{raised.value} {raised.value.hint}"


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda t: [t.pop(f"{LAYER}.mlp.{part}_proj.weight") for part in ("up", "down")])
    refused(folder, f"lacks {LAYER}.mlp.up_proj.weight", "2 such tensors", "config.json")


def test_a_missing_head_of_an_untied_model_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    refused(folder, "lacks lm_head.weight")


def test_tensors_that_are_not_of_the_model_are_listed(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.3.mlp.odd": torch.ones(2)}))
    model = open_model(folder, fa=False)
    assert model.unknown == ["model.layers.3.mlp.odd"]
    assert model.exported_names == [*model.names, "model.layers.3.mlp.odd"]


def test_stored_buffers_have_no_values_before_they_are_loaded(tmp_path: Path) -> None:
    """A resumed run leaves a gap in the export for each tensor without values, and writes all others again."""
    model = open_model(write_model(tmp_path, "glm4_moe", patched=False, **TYPES["glm4_moe"]), fa=False)
    assert any(name.endswith("e_score_correction_bias") for name in model.stored)
    assert all(model.tensor(name).is_meta for name in model.stored)


def test_misshapen_tensors_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    refused(folder, WEIGHTS, "model.norm.weight has shape [31]", "asks for [32]")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_already_quantized_weights_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32).to(dtype)}))
    refused(folder, WEIGHTS, "model.norm.weight has dtype", "computes with float32")


def test_stored_rotary_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    old = f"{LAYER}.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda tensors: tensors.update({old: torch.ones(4)}))
    model = open_model(folder, fa=False)
    assert old not in model.names and old not in model.stored


def test_the_layers_are_the_list_with_most_values_including_buffers() -> None:
    model, block = nn.Module(), nn.Module()
    model.heads = nn.ModuleList([nn.Linear(9, 9)])
    block.experts = nn.ModuleList([nn.Linear(3, 3)])
    block.register_buffer("weight", torch.ones(10, 10))
    model.blocks = nn.ModuleList([block])
    assert list(_decoder_layers(model)) == ["blocks.0"]


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no list of decoder layers"):
        _decoder_layers(nn.Linear(2, 2))


def test_a_tensor_that_overflows_the_dtype_of_the_run_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].mul_(1e5))
    model = open_model(folder, fa=False, dtype="float16")
    with (
        pytest.raises(InvalidInputError, match="model.norm.weight does not fit float16"),
        model.loaded(["model.norm.weight"]),
    ):
        pass


def test_a_stored_tied_head_must_equal_the_embedding(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False, tie_word_embeddings=True)

    def store_head(factor: float) -> None:
        edit_weights(
            folder,
            lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] * factor}),
        )

    store_head(1.0)
    open_model(folder, fa=False).require_tied_alike()
    store_head(2.0)
    with pytest.raises(InvalidInputError, match="lm_head.weight differs from model.embed_tokens.weight"):
        open_model(folder, fa=False).require_tied_alike()
