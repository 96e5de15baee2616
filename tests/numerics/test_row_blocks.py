"""Blocks of rows cover a matrix once, in order, and stay small."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fa3cli.numerics.row_blocks import row_blocks

CACHE = 2**18


@given(
    rows=st.integers(0, 2000), columns=st.integers(0, 600) | st.sampled_from([CACHE - 1, CACHE, CACHE + 1])
)
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
