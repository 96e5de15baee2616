from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fa3cli.errors import UnsupportedError
from fa3cli.models.memory_model import MemoryModel
from fa3cli.models.opening import open_model
from tests.runs.reference import load
from tests.sample_models import random_model, write_model


@pytest.mark.parametrize("tied", [False, True])
def test_a_memory_model_has_the_structure_of_its_folder(tmp_path: Path, tied: bool) -> None:
    folder = write_model(tmp_path / "llama", patched=False, tie_word_embeddings=tied)
    streamed, resident = open_model(folder, fa=False), MemoryModel(load(folder))
    for name in ("names", "stored", "of_layer", "outside", "before_layers", "head", "tied", "dtype"):
        assert getattr(resident, name) == getattr(streamed, name), name
    assert list(resident.layers) == list(streamed.layers)
    assert all(resident.shape(name) == streamed.shape(name) for name in resident.stored)
    assert resident.nbytes(*resident.stored) == streamed.nbytes(*streamed.stored)
    assert resident.layer_bytes == streamed.layer_bytes > 0


def test_loading_does_not_move_the_weights() -> None:
    model = random_model("llama")
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    resident = MemoryModel(model)
    with resident.loaded(resident.stored):
        assert resident.resident
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before


def test_a_model_on_several_devices_or_on_meta_is_refused() -> None:
    model = random_model("llama")
    model.lm_head.to("meta")
    with pytest.raises(UnsupportedError, match="cpu, meta, expected one device") as raised:
        MemoryModel(model)
    assert "folder of its weights" in raised.value.hint
    with pytest.raises(UnsupportedError, match="on meta"):
        MemoryModel(model.to("meta"))


def test_parameters_of_several_dtypes_are_refused_by_name() -> None:
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj.to(torch.bfloat16)
    with pytest.raises(UnsupportedError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is bfloat16"):
        MemoryModel(model)
