from __future__ import annotations

import torch

from fa3cli.samples.masking import real_rows, real_states

MASK = torch.tensor([[True, True, False], [False, True, True]])


def test_rows_of_tokens_are_selected_in_either_shape() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    expected = values[MASK]
    assert torch.equal(real_rows(values, MASK), expected)
    assert torch.equal(real_rows(values.view(6, 2), MASK), expected)


def test_rows_that_do_not_match_the_mask_are_unchanged() -> None:
    values = torch.ones(4, 2)
    assert real_rows(values, MASK) is values
    assert real_rows(values, None) is values


def test_states_of_different_heads_are_not_mixed() -> None:
    states = torch.arange(2 * 4 * 3 * 5.0).view(2, 4, 3, 5)
    real = real_states(states, MASK)
    assert real.shape == (1, 4, 4, 5)
    for head in range(4):
        assert torch.equal(real[0, head], states[:, head][MASK])


def test_states_that_do_not_match_the_mask_are_unchanged() -> None:
    states = torch.ones(2, 4, 7, 5)
    assert real_states(states, MASK) is states
    assert real_states(states, None) is states
