"""Tests that folders with something else than a float model are refused by what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fa3cli import api
from fa3cli.errors import UnsupportedError
from fa3cli.models.opening import open_model
from fa3cli.models.quantized_checkpoints import require_float_model
from tests.sample_models import edit_config, token_ids, write_lines, write_model


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"quant_method": "awq", "bits": 4}, "an AWQ checkpoint"),
        ({"quant_method": "gptq", "bits": 4}, "a GPTQ checkpoint"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "a bitsandbytes checkpoint"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "a compressed-tensors checkpoint"),
        ({"quant_method": "new"}, "quantized by 'new'"),
    ],
)
def test_other_quantizations_are_named(config: dict[str, Any], what: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", patched=False)
    edit_config(folder, quantization_config=config)
    with pytest.raises(UnsupportedError, match=what) as raised:
        open_model(folder, fa=False)
    assert "config.json" in str(raised.value) and "float model" in str(raised.value.hint)


def test_an_export_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama")
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(8))
    output = api.quantize(folder, tmp_path / "out", calib=calib).output
    with pytest.raises(UnsupportedError, match="an export of fa3 or msModelSlim"):
        open_model(output, fa=False)


@pytest.mark.parametrize(("file", "what"), [("adapter_config.json", "a LoRA adapter"), ("model.gguf", "a GGUF")])
def test_a_folder_without_a_model_is_named(file: str, what: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps({}))
    with pytest.raises(UnsupportedError, match=what) as raised:
        require_float_model(tmp_path)
    assert raised.value.hint
