"""Tests that a quantizer returns states unchanged unless it has a transform."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fa3cli import FAQuantizer, logger


@pytest.mark.parametrize("role", ["q", "k", "v"])
def test_states_are_returned_unchanged(role: str) -> None:
    states = torch.randn(1, 2, 3, 4)
    assert FAQuantizer(object(), logger).quant(states, qkv=role) is states


def test_a_transform_gets_states_and_role_and_returns_the_result() -> None:
    quantizer, seen = FAQuantizer(), []
    quantizer.transform = lambda states, role: seen.append(role) or -states
    states = torch.ones(1, 1, 1, 1)
    assert [quantizer.quant(states, role).item() for role in "qkv"] == [-1, -1, -1]
    assert seen == ["q", "k", "v"]
    quantizer.transform = None
    assert quantizer.quant(states, "q") is states


def test_a_transform_gets_positions_before_heads_as_bhsd() -> None:
    """The reference mistakes [B, S, H, D] for [B, H, S, D] and makes one scale per position."""
    quantizer, seen = FAQuantizer(), []
    quantizer.transform = lambda states, role: seen.append(states.shape) or states * 2
    states = torch.randn(1, 7, 2, 4)
    assert torch.equal(quantizer.quant(states, "q", layout="BSHD"), states * 2)
    assert seen == [(1, 2, 7, 4)]
    quantizer.transform = None
    assert quantizer.quant(states, "q", layout="BSHD") is states


def test_states_without_an_axis_of_heads_are_refused() -> None:
    quantizer = FAQuantizer()
    quantizer.transform = lambda states, role: states
    with pytest.raises(ValueError, match=r"k is \(8, 5, 16\) here"):
        quantizer.quant(torch.ones(8, 5, 16), "k")


def test_a_quantizer_is_not_a_submodule_or_in_the_state_dict() -> None:
    model = nn.Linear(2, 2)
    names = list(model.state_dict())
    model.fa_quantizer = FAQuantizer(object(), logger)
    assert list(model.state_dict()) == names and list(model.modules()) == [model]


def test_a_copied_model_has_its_own_quantizer() -> None:
    model = nn.Linear(2, 2)
    model.fa_quantizer = FAQuantizer(object(), logger)
    other = copy.deepcopy(model)
    other.fa_quantizer.transform = lambda states, role: -states
    assert model.fa_quantizer.transform is None


def test_the_constructor_takes_the_arguments_of_the_guide() -> None:
    assert FAQuantizer(config=object(), logger=logger).layout == "BHSD"
    assert FAQuantizer(object(), logger).layout == "BHSD"


def test_the_layout_of_the_constructor_applies_to_every_call() -> None:
    quantizer, seen = FAQuantizer(object(), logger, layout="BSHD"), []
    quantizer.transform = lambda states, role: seen.append(states.shape) or states * 2
    states = torch.randn(1, 7, 2, 4)
    assert torch.equal(quantizer.quant(states, "q"), states * 2)
    assert torch.equal(quantizer.quant(states.transpose(1, 2), "q", layout="BHSD"), states.transpose(1, 2) * 2)
    assert seen == [(1, 2, 7, 4)] * 2
    with pytest.raises(ValueError, match="layout is 'BNSD', expected"):
        FAQuantizer(object(), logger, layout="BNSD")
