"""Tests that a checksum is the CRC-32 of the bytes that a file stores."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from fa3cli.exports.checksums import bytes_of, checksum


@given(blocks=st.lists(st.binary(max_size=40), max_size=5))
def test_blocks_have_the_checksum_of_their_joined_bytes(blocks: list[bytes]) -> None:
    assert checksum(blocks) == f"{zlib.crc32(b''.join(blocks)):08x}"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6, dtype=torch.float32).reshape(2, 3),
        torch.arange(6).bfloat16(),
        torch.arange(6, dtype=torch.int8)[::2],
        torch.arange(6).reshape(2, 3).T,
        torch.tensor(3.0),
        torch.tensor([True, False]),
        torch.empty(0, 3),
    ],
)
def test_bytes_are_those_of_a_file(tensor: Tensor, tmp_path: Path) -> None:
    save_file({"t": tensor.contiguous()}, tmp_path / "w.safetensors")
    stored = (tmp_path / "w.safetensors").read_bytes()
    assert stored[len(stored) - tensor.nbytes :] == bytes(bytes_of(tensor))
