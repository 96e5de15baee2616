"""Tests that safetensors reads back what was added: equal, aligned, in shards below the limit; also after kills."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fa3cli.exports.checksums import bytes_of, checksum
from fa3cli.exports.safetensors_writer import SafetensorsWriter

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8]
shapes = st.lists(st.integers(0, 7), max_size=5).map(tuple)


@st.composite
def some_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw tensors of random bits (also NaN) and shapes: odd sizes, empty tensors, scalars, transposed ones."""
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
    """Return the length of a file's header and its entries."""
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
def test_one_file_contains_all_added_tensors(tensors: dict[str, Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        [file] = write(Path(folder), tensors)
        assert_same(load_file(file), tensors)
        assert_aligned(file)
        assert [path.name for path in Path(folder).iterdir()] == ["w.safetensors"]


@given(tensors=some_tensors(), part_bytes=st.integers(1, 4000))
def test_shards_together_contain_all_added_tensors(tensors: dict[str, Tensor], part_bytes: int) -> None:
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


def test_a_tensor_larger_than_the_limit_gets_its_own_shard(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(10), "b": torch.zeros(100_000), "c": torch.zeros(10)}
    assert [list(load_file(file)) for file in write(tmp_path, tensors, 50_000)] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("size", [8, 7])
def test_later_changes_of_a_tensor_are_not_stored(tmp_path: Path, size: int) -> None:
    """The memory of a layer is reused; a tensor of 7 bytes is written at the end of its shard."""
    tensor = torch.arange(size, dtype=torch.int8)
    writer = SafetensorsWriter(tmp_path / "w.safetensors", ["t"])
    writer.add("t", tensor)
    tensor.zero_()
    [file] = writer.close()
    assert load_file(file)["t"].tolist() == list(range(size))


def test_announced_names_without_tensors_are_not_stored(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "w.safetensors", [f"layer.{number}" for number in range(500)])
    writer.add("layer.7", torch.ones(3))
    [file] = writer.close()
    assert_same(load_file(file), {"layer.7": torch.ones(3)})


def test_parameters_are_stored_without_their_gradient(tmp_path: Path) -> None:
    tensors = {"w": torch.nn.Parameter(torch.ones(2, 3))}
    assert_same(load_file(write(tmp_path, tensors)[0]), tensors)


# ---- Continued runs, and several ranks


class Killed(Exception):
    """Raised in place of a kill."""


@contextmanager
def killed_after(calls: int) -> Iterator[None]:
    """End the run in the block after `calls` calls that rename, open, write or sync a file."""
    left = iter(range(calls))

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **named: object) -> object:
            if next(left, None) is None:
                raise Killed
            return function(*arguments, **named)

        return called

    with ExitStack() as patches:
        for holder, name in ((Path, "rename"), (Path, "open"), (Path, "write_text"), (os, "fsync")):
            patches.enter_context(mock.patch.object(holder, name, counted(getattr(holder, name))))
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def begun(folder: Path, names: list[str], part_bytes: int | None) -> SafetensorsWriter:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return SafetensorsWriter(folder / "w.safetensors", names, part_bytes, scratch=scratch)


def fill(writers: list[SafetensorsWriter], tensors: dict[str, Tensor], owners: list[int | None]) -> None:
    """Add tensors to all writers; a tensor of another rank is added as a gap."""
    for (name, tensor), owner in zip(tensors.items(), owners):
        for number, writer in enumerate(writers):
            writer.add(name, tensor if owner == number else tensor.to("meta"))


def close_all(writers: list[SafetensorsWriter]) -> None:
    for writer in writers[1:]:
        writer.suspend()
    writers[0].close()


@given(tensors=some_tensors(), part_bytes=st.none() | st.integers(1, 4000), data=st.data())
def test_files_are_the_same_after_a_kill_and_continuation_by_any_ranks(
    tensors: dict[str, Tensor], part_bytes: int | None, data: st.DataObject
) -> None:
    """Synced tensors are added as gaps; the others, written or not, are added again."""
    names, count = list(tensors), len(tensors)
    ranks = [data.draw(st.integers(1, 3)) for _ in range(2)]
    owners = [data.draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=count)) for n in ranks]
    synced, added = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    ending = data.draw(st.none() | st.integers(0, 30))  # calls that succeed during close
    with tempfile.TemporaryDirectory() as place:
        whole, folder = Path(place) / "whole", Path(place) / "folder"
        whole.mkdir(), folder.mkdir()
        write(whole, tensors, part_bytes)
        killed = [begun(folder, names, part_bytes) for _ in range(ranks[0])]  # buffers stay unwritten
        head, middle = dict(list(tensors.items())[:synced]), dict(list(tensors.items())[synced:added])
        fill(killed, head, owners[0])
        for writer in killed:
            writer.sync()
        fill(killed, middle, owners[0][synced:])
        if ending is not None:
            fill(killed, dict(list(tensors.items())[added:]), owners[0][added:])
            synced = count if data.draw(st.booleans()) else synced
            for writer in killed:
                writer.sync()
            try:
                with killed_after(ending):
                    close_all(killed)
            except Killed:
                pass
            else:
                assert contents(folder) == contents(whole)
        again = [begun(folder, names, part_bytes) for _ in range(ranks[1])]
        fill(again, tensors, [None] * synced + owners[1][synced:])
        close_all(again)
        assert contents(folder) == contents(whole)
        # Those of gaps are computed from the file.
        assert again[0].checksums == {name: checksum([bytes_of(tensor)]) for name, tensor in tensors.items()}


@given(tensors=some_tensors(), part_bytes=st.none() | st.integers(1, 4000), calls=st.integers(0, 30))
def test_files_are_the_same_after_a_kill_and_a_new_start(
    tensors: dict[str, Tensor], part_bytes: int | None, calls: int
) -> None:
    """The journal's records are written so: a file has its final name only when it is complete."""
    with tempfile.TemporaryDirectory() as place:
        whole, folder = Path(place) / "whole", Path(place) / "folder"
        whole.mkdir(), folder.mkdir()
        write(whole, tensors, part_bytes)
        try:
            with killed_after(calls):
                write(folder, tensors, part_bytes)
        except Killed:
            named = {name: data for name, data in contents(folder).items() if ".part" not in name}
            assert named.items() <= contents(whole).items()
        write(folder, tensors, part_bytes)
        found = contents(folder)
        assert {name: found[name] for name in contents(whole)} == contents(whole)


def test_two_ranks_may_rename_the_same_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks find the file finished; one renames it first."""
    tensors = {"t": torch.arange(9)}
    writer = begun(tmp_path, list(tensors), None)
    fill([writer], tensors, [0])
    writer.close()
    before, rename = contents(tmp_path), Path.rename

    def other_is_first(file: Path, target: Path) -> Path:
        if file.suffix == ".safetensors":
            rename(file, target)
        return rename(file, target)

    monkeypatch.setattr(Path, "rename", other_is_first)
    again = begun(tmp_path, list(tensors), None)
    monkeypatch.undo()
    fill([again], tensors, [None])
    again.close()
    assert contents(tmp_path) == before
