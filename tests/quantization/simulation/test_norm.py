from __future__ import annotations

import pytest
import torch
from torch import nn

from fa3cli.quantization.simulation.norm import SimulatedNorm


@pytest.mark.parametrize("own_bias", [True, False])
def test_a_stored_norm_adds_its_bias_once(own_bias: bool) -> None:
    norm = nn.LayerNorm(4, bias=own_bias)
    simulated = SimulatedNorm(norm)
    bias, states = torch.randn(4), torch.randn(2, 4)
    simulated.load_state_dict(
        {"weight": norm.weight, "bias": bias, "module.weight": norm.weight, "module.bias": bias}, assign=True
    )
    expected = nn.functional.layer_norm(states, (4,), norm.weight.detach()) + bias
    assert torch.allclose(simulated(states), expected, atol=1e-6)
