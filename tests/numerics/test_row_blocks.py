"""Tests that blocks of rows or tokens cover a tensor once, in order, and stay small."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fa3cli.numerics.row_blocks import row_blocks, token_blocks

CACHE = 2**18


@given(rows=st.integers(0, 2000), columns=st.integers(0, 600) | st.sampled_from([CACHE - 1, CACHE, CACHE + 1]))
@example(rows=7, columns=CACHE // 2)
@example(rows=600, columns=1000)
def test_every_row_is_in_one_block_and_the_blocks_are_full(rows: int, columns: int) -> None:
    matrix = torch.empty(rows, columns, device="meta")
    places = [range(rows)[block] for block in row_blocks(matrix)]
    assert [row for place in places for row in place] == list(range(rows))
    for place in places:
        assert len(place) == 1 or len(place) * columns <= CACHE
    for place in places[:-1]:  # one more row would be too many
        assert (len(place) + 1) * max(columns, 1) > CACHE


def test_a_block_is_a_view() -> None:
    matrix = torch.zeros(3, 4)
    for block in row_blocks(matrix):
        matrix[block] += 1
    assert matrix.eq(1).all()


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 40),
    tokens=st.integers(1, 9000),
    dim=st.sampled_from([1, 64, 128, 2**20]),
    by_token=st.booleans(),
)
@example(batch=2, heads=24, tokens=118_800, dim=128, by_token=True)
def test_every_token_is_in_one_block(batch: int, heads: int, tokens: int, dim: int, by_token: bool) -> None:
    tokens = min(tokens, 2**30 // (heads * dim) + 1)
    states = torch.empty(batch, heads, tokens, dim, device="meta")
    if by_token:
        states = torch.empty(batch, tokens, heads, dim, device="meta").transpose(1, 2)
    blocks = list(token_blocks(states))
    assert sum(block.shape[1] for block in blocks) == batch * tokens
    assert len(blocks) <= batch * (tokens if heads * dim > 2**20 else 1 + 2 * states[0].numel() / 2**20)
    offset = states[0, 0, 0, 0].storage_offset()
    for block in blocks:
        assert block.shape[::2] == (heads, dim) and block.stride() == states.stride()[1:]
        assert block.shape[1] == 1 or block.numel() <= 2**20
        assert block.storage_offset() >= offset  # in order
        offset = block.storage_offset() + 1
