"""Tests that folders with something else than a model are refused by what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fa3cli import patching
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.folders.model_folder import require_float_model


@pytest.mark.parametrize(("file", "what"), [("adapter_config.json", "a LoRA adapter"), ("model.gguf", "a GGUF")])
def test_a_folder_without_a_model_is_named(file: str, what: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps({}))
    with pytest.raises(UnsupportedError, match=what) as raised:
        require_float_model(tmp_path)
    assert raised.value.hint


def test_an_export_is_not_patched(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "quant_model_description.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="an export of fa3"):
        patching.patch(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(InvalidInputError, match=r"config\.json: is a file") as raised:
        patching.patch(file)
    assert raised.value.hint == "give the folder of the weights"
