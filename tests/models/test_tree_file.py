"""Tests that a tree is read back with the same types and bits, and that an error names a broken file."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fa3cli.errors import ConflictError
from fa3cli.models.tree_file import read_tree, tensors_of, write_tree

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randint(-2, 3, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))


trees = st.recursive(
    values | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
        return
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_same(*pair)
    else:
        assert found == expected


@given(tree=trees)
def test_a_tree_is_read_back_unchanged(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tree.safetensors"
        write_tree(file, tree)
        assert list(Path(folder).iterdir()) == [file]
        assert_same(read_tree(file), tree)


def test_nan_and_infinity_are_read_back(tmp_path: Path) -> None:
    """For example the range_param of a linear with a single token."""
    write_tree(tmp_path / "t", {"a": float("nan"), "b": float("-inf"), "c": torch.tensor(float("nan"))})
    found = read_tree(tmp_path / "t")
    assert found["a"] != found["a"] and found["b"] == float("-inf") and found["c"].isnan()


@pytest.mark.parametrize(
    "value", [object(), 1j, {1: 2}, OrderedDict(a=1), torch.Size([1]), {"a": [SimpleNamespace(b=1)]}]
)
def test_a_value_whose_type_would_change_is_refused(tmp_path: Path, value: Any) -> None:
    """The next layer would get another type than the layer returned, such as dict for OrderedDict."""
    with pytest.raises(TypeError):
        write_tree(tmp_path / "t", {"of": value, "tensor": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


TREE = {"a": [torch.arange(5), 1], "b": (torch.ones(3), "text", None)}


@given(size=st.integers(0, 10_000))
def test_a_truncated_file_is_named(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tree.safetensors"
        write_tree(file, TREE)
        whole = file.read_bytes()
        file.write_bytes(whole[: size % len(whole)])
        with pytest.raises(ConflictError, match=r"tree\.safetensors: not as fa3 wrote it") as raised:
            read_tree(file)
        assert raised.value.hint


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_file_with_a_changed_byte_is_read_or_refused(place: int, byte: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tree.safetensors"
        write_tree(file, TREE)
        changed = bytearray(file.read_bytes())
        changed[place % len(changed)] = byte
        file.write_bytes(changed)
        with suppress(ConflictError):
            read_tree(file)


@pytest.mark.parametrize(
    ("written", "damaged"), [(b'"shape":[6]', b'"shape":[2,3]'), (b'"dtype":"F32"', b'"dtype":"I32"')]
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(tmp_path: Path, written: bytes, damaged: bytes) -> None:
    """Otherwise a forward would get states of another shape and fail within the model."""
    file = tmp_path / "t"
    write_tree(file, torch.ones(6))
    size = int.from_bytes((data := file.read_bytes())[:8], "little")
    header = data[8 : 8 + size].replace(written, damaged).rstrip().ljust(size)[:size]
    assert header.rstrip() != data[8 : 8 + size].rstrip()
    file.write_bytes(data[:8] + header + data[8 + size :])
    with pytest.raises(ConflictError, match=r"t: not as fa3 wrote it \(0 is torch\."):
        read_tree(file)


def test_an_invalid_description_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for metadata in (
        None,
        {"tree": "[]"},
        {"tree": "{}"},
        {"tree": '{"tensor": "0"}'},
        {"tree": '{"tensor": "7"}'},
        {"tree": '{"dict": 1}'},
    ):
        save_file({"0": torch.ones(1)}, tmp_path / "t", metadata=metadata)
        with pytest.raises(ConflictError):
            read_tree(tmp_path / "t")


def test_tensors_are_found_within_objects_but_not_in_modules() -> None:
    inner = SimpleNamespace(mask=torch.tensor(3), of=None)
    inner.of = inner  # a cycle
    tree = [{"a": torch.tensor(1)}, (torch.tensor(2), inner, 5, None, nn.Linear(2, 2))]
    assert sorted(int(tensor) for tensor in tensors_of(tree)) == [1, 2, 3]
    assert [int(tensor) for tensor in tensors_of(tree)] == [int(tensor) for tensor in tensors_of(tree)]


@given(tree=trees)
def test_every_tensor_is_found_once_and_in_the_same_order(tree: Any) -> None:
    def count(value: Any) -> int:
        within = value.values() if isinstance(value, dict) else value if type(value) in (list, tuple) else ()
        return isinstance(value, Tensor) + sum(map(count, within))

    found = [id(tensor) for tensor in tensors_of(tree)]
    assert len(found) == count(tree)
    assert found == [id(tensor) for tensor in tensors_of(tree)]
