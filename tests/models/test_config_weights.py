from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli.errors import InvalidInputError
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.config_weights import ConfigWeights, has_weights
from fa3cli.models.skeleton import build_skeleton, read_config
from tests.sample_models import WEIGHTS, write_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "options"),
    [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("qwen2", {}), ("gpt2", {})],
)
def test_tensors_equal_those_of_a_checkpoint(
    tmp_path: Path, model_type: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    write_model(tmp_path, model_type, patched=False, dtype=dtype, **options)
    config = read_config(tmp_path, trusted=False)
    # Built in another dtype, as --dtype does: the stored tensors stay the same.
    found = ConfigWeights(tmp_path, build_skeleton(config, torch.float16, None), dtype).tensors
    stored = Checkpoint(tmp_path).tensors
    assert {name: (info.dtype, info.shape, info.nbytes) for name, info in found.items()} == {
        name: (info.dtype, info.shape, info.nbytes) for name, info in stored.items()
    }


def test_tensors_cannot_be_read(tmp_path: Path) -> None:
    weights = ConfigWeights(tmp_path, torch.nn.Linear(2, 3), torch.float32)
    assert weights.files == []
    with pytest.raises(InvalidInputError, match="no weights"):
        weights.read(["weight"])


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (WEIGHTS, True),
        (f"{WEIGHTS}.index.json", True),
        ("model-00002-of-00003.safetensors", True),
        ("pytorch_model-00001-of-00002.bin", True),
        ("config.json", False),
        ("tokenizer.json", False),
    ],
)
def test_has_weights_finds_weight_files(tmp_path: Path, file: str, found: bool) -> None:
    (tmp_path / file).touch()
    assert has_weights(tmp_path) is found
