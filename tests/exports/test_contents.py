from __future__ import annotations

import pytest
import torch

from fa3cli.errors import InvalidInputError
from fa3cli.exports.contents import Header, open_contents
from fa3cli.exports.targets import TARGETS
from tests.exports.exports import WEIGHTS, build_export


def test_headers_and_tensors_are_read(tmp_path) -> None:
    export = build_export(tmp_path, torch.bfloat16)
    contents = open_contents(tmp_path)
    assert contents.tensors["model.norm.weight"] == Header(WEIGHTS, "bfloat16", (32,))
    assert set(contents.tensors) == set(export.tensors)
    assert all(torch.equal(contents.read(name), tensor) for name, tensor in export.tensors.items())


def test_settings_are_not_tensors(tmp_path) -> None:
    build_export(tmp_path)
    contents = open_contents(tmp_path)
    assert contents.settings == {"model_quant_type": "W8A8", "fa_quant_type": "FAQuant"}
    assert set(contents.description) == set(contents.tensors)


def test_one_shard_is_mapped_at_a_time(tmp_path) -> None:
    export = build_export(tmp_path)
    export.save(shards=3)
    contents = open_contents(tmp_path)
    for name, tensor in export.tensors.items():
        assert torch.equal(contents.read(name), tensor)
        assert len(contents._opened) == 1


def test_an_error_names_the_exports_of_pipeline_transformers(tmp_path) -> None:
    target = TARGETS["mindie-sd"]
    names = {
        "transformer_2": target.weight_file,
        "transformer": target.description_files[0],
        "vae": "model.safetensors",
    }
    for folder, file in names.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    with pytest.raises(InvalidInputError, match="for each of transformer, transformer_2$") as raised:
        open_contents(tmp_path)
    assert raised.value.hint == f"verify one of them: fa3 verify {tmp_path / 'transformer'}"


def test_a_calibration_is_named(tmp_path) -> None:
    (tmp_path / "fa3_parameters.safetensors").touch()
    with pytest.raises(InvalidInputError, match="holds a calibration, not an export"):
        open_contents(tmp_path)
