from __future__ import annotations

import pytest

from fa3cli.exports.geometry import read_geometry
from fa3cli.exports.tensor_parallel import split_remarks

SIZES = {
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 18944,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["28 attention heads: cannot be split at tensor parallel 8"]),
        ({"num_attention_heads": 32}, []),
        ({"num_attention_heads": 32, "intermediate_size": 11010}, ["11010 channels of the MLP", "4, 8"]),
        ({"num_attention_heads": None, "intermediate_size": None}, []),
    ],
)
def test_sizes_that_cannot_be_split_give_a_remark(changes: dict[str, int | None], words: list[str]) -> None:
    found = list(split_remarks(read_geometry(SIZES | changes)))
    assert len(found) == bool(words) and all(word in found[0] for word in words)
