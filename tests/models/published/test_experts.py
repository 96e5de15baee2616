"""Tests experts as linears of their own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu

from fa3cli.models.published.experts import ExpertLinears, can_be_linears

EXPERTS, WIDTH, INNER = 3, 6, 4


class Fused(nn.Module):
    """Fused experts as transformers 5 writes them."""

    has_gate, is_concatenated, is_transposed, has_bias, has_post_expert_norm = True, True, False, False, False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate_up_proj = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))

    def _apply_gate(self, joined: torch.Tensor) -> torch.Tensor:
        gate, up = joined.chunk(2, dim=-1)
        return silu(gate) * up


@torch.no_grad()
def test_each_token_gets_the_weighted_sum_of_its_experts() -> None:
    fused = Fused()
    joined, down = fused.gate_up_proj.clone(), fused.down_proj.clone()
    experts = ExpertLinears(fused, "gate", "up", "down")
    for number in range(EXPERTS):
        own = experts.get_submodule(str(number))
        gate, up = joined[number].chunk(2)
        for name, weight in (("gate", gate), ("up", up), ("down", down[number])):
            own.get_submodule(name).weight.copy_(weight)
    states, chosen = torch.randn(5, WIDTH), torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1], [1, EXPERTS]])
    weights = torch.rand(5, 2)
    expected = torch.zeros(5, WIDTH)
    for token in range(5):
        for slot in range(2):
            if (number := int(chosen[token, slot])) < EXPERTS:
                inner = fused._apply_gate(linear(states[token], joined[number]))
                expected[token] += weights[token, slot] * linear(inner, down[number])
    torch.testing.assert_close(experts(states, chosen, weights), expected)


def test_the_fused_parameters_are_released() -> None:
    experts = ExpertLinears(Fused(), "gate", "up", "down")
    assert sorted(experts.state_dict()) == [
        f"{number}.{name}.weight" for number in range(EXPERTS) for name in ("down", "gate", "up")
    ]


@pytest.mark.parametrize("change", ["is_transposed", "has_bias", "has_post_expert_norm"])
def test_other_layouts_stay_fused(change: str) -> None:
    fused = Fused()
    assert can_be_linears(fused)
    setattr(fused, change, True)
    assert not can_be_linears(fused)
    assert not can_be_linears(nn.Linear(2, 2)) and not can_be_linears(SimpleNamespace())  # type: ignore[arg-type]
