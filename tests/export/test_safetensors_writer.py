"""Whatever is added comes back through safetensors: equal, aligned, in shards below the limit."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fa3cli.export.safetensors_writer import SafetensorsWriter

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8]
shapes = st.lists(st.integers(0, 7), max_size=5).map(tuple)


@st.composite
def some_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    """Random bits (NaN too) in random shapes: odd sizes, empty tensors, scalars, transposed ones."""
    letters = st.text('abc.é"\\数', min_size=1, max_size=12)
    names = draw(st.lists(letters.filter(lambda name: name != "__metadata__"), max_size=8, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    tensors = {}
    for name in names:
        shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
        raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
        tensor = raw.view(dtype).view(shape)
        tensors[name] = tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], part_bytes: int | None = None) -> list[Path]:
    writer = SafetensorsWriter(folder / "w.safetensors", list(tensors), part_bytes)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    assert writer.total_bytes == sum(tensor.nbytes for tensor in tensors.values())
    return writer.close()


def header(file: Path) -> tuple[int, dict[str, dict]]:
    """The length of a file's header and its entries."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return length, json.loads(raw[8 : 8 + length])


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert bits(found[name]) == bits(tensor), name


def assert_aligned(file: Path) -> None:
    length, entries = header(file)
    for name, entry in entries.items():
        itemsize = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1}[entry["dtype"]]
        assert (8 + length + entry["data_offsets"][0]) % itemsize == 0, name


@given(tensors=some_tensors())
def test_one_file_gives_back_what_was_added(tensors: dict[str, Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        [file] = write(Path(folder), tensors)
        assert_same(load_file(file), tensors)
        assert_aligned(file)
        assert [path.name for path in Path(folder).iterdir()] == ["w.safetensors"]


@given(tensors=some_tensors(), part_bytes=st.integers(1, 4000))
def test_shards_together_give_back_what_was_added(tensors: dict[str, Tensor], part_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), tensors, part_bytes)
        found: dict[str, Tensor] = {}
        for file in files:
            part = load_file(file)
            assert found.keys().isdisjoint(part)
            found |= part
            assert_aligned(file)
            sized = [name for name, tensor in part.items() if tensor.nbytes]
            assert file.stat().st_size <= part_bytes or len(sized) <= 1
        assert_same(found, tensors)
        if len(files) == 1:
            assert files == [Path(folder) / "w.safetensors"] == list(Path(folder).iterdir())
            return
        count = len(files)
        names = [f"w-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        assert [file.name for file in files] == names
        assert {path.name for path in Path(folder).iterdir()} == {*names, "w.safetensors.index.json"}
        assert_index(Path(folder) / "w.safetensors.index.json", files, tensors)


def assert_index(index: Path, files: list[Path], tensors: dict[str, Tensor]) -> None:
    listed = json.loads(index.read_text())
    assert listed == {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file.name for file in files for name in load_file(file)},
    }


def test_a_shard_is_filled_before_the_next_one_is_begun(tmp_path: Path) -> None:
    tensors = {f"t{number:03d}": torch.zeros(1000) for number in range(10)}
    alone = write(tmp_path, dict.fromkeys(tensors, torch.zeros(0)))[0].stat().st_size  # header and no data
    files = write(tmp_path, tensors, part_bytes=alone + 3 * 4000)
    assert [len(load_file(file)) for file in files] == [3, 3, 3, 1]
    files = write(tmp_path, tensors, part_bytes=alone + 3 * 4000 - 1)
    assert [len(load_file(file)) for file in files] == [2, 2, 2, 2, 2]


def test_a_tensor_larger_than_the_limit_has_a_shard_to_itself(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(10), "b": torch.zeros(100_000), "c": torch.zeros(10)}
    assert [list(load_file(file)) for file in write(tmp_path, tensors, 50_000)] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("size", [8, 7])
def test_a_tensor_changed_later_is_stored_as_it_was(tmp_path: Path, size: int) -> None:
    """The memory of a layer is used again; a size of 7 bytes waits for the end of the shard."""
    tensor = torch.arange(size, dtype=torch.int8)
    writer = SafetensorsWriter(tmp_path / "w.safetensors", ["t"])
    writer.add("t", tensor)
    tensor.zero_()
    [file] = writer.close()
    assert load_file(file)["t"].tolist() == list(range(size))


def test_names_announced_but_never_added_leave_no_trace(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "w.safetensors", [f"layer.{number}" for number in range(500)])
    writer.add("layer.7", torch.ones(3))
    [file] = writer.close()
    assert_same(load_file(file), {"layer.7": torch.ones(3)})


def test_parameters_are_stored_without_their_gradient(tmp_path: Path) -> None:
    tensors = {"w": torch.nn.Parameter(torch.ones(2, 3))}
    assert_same(load_file(write(tmp_path, tensors)[0]), tensors)
