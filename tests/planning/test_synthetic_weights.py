from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fa3cli.models.published.names import PublishedNames
from fa3cli.planning.synthetic_weights import SyntheticWeights


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64, dtype=torch.bfloat16)
        self.linear = nn.Linear(64, 2_000, dtype=torch.bfloat16)
        self.norm = nn.LayerNorm(64)
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("one", torch.tensor(1.0))


@pytest.fixture
def weights() -> SyntheticWeights:
    return SyntheticWeights(
        Path(), Model().to("meta"), torch.bfloat16, {"linear.weight", "linear.bias"}, PublishedNames()
    )


def test_shapes_and_dtypes_equal_those_of_the_model(weights: SyntheticWeights) -> None:
    expected = Model().state_dict()
    found = weights.read(expected)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()
    }
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert weights.seconds > 0


def test_only_tensors_of_timed_layers_use_their_full_memory(weights: SyntheticWeights) -> None:
    found = weights.read(["linear.weight", "embedding.weight"])
    assert found["linear.weight"].untyped_storage().nbytes() == 2_000 * 64 * 2
    assert found["embedding.weight"].untyped_storage().nbytes() == (1000 + 64) * 2


def test_rows_differ(weights: SyntheticWeights) -> None:
    for tensor in weights.read(["linear.weight", "embedding.weight"]).values():
        assert len(tensor.unique(dim=0)) == len(tensor)
