from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from fa3cli.errors import InvalidInputError
from fa3cli.models.checkpoint import Checkpoint
from tests.sample_models import WEIGHTS, split_weights, write_index

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(4).to(torch.bfloat16),
    "c": torch.ones(2, dtype=torch.float16),
    "d": torch.tensor(3.0),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / WEIGHTS)
    return tmp_path


def test_one_weight_file_is_read(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    assert {name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (4,)),
        "c": ("F16", (2,)),
        "d": ("F32", ()),
    }
    assert checkpoint.nbytes == 24 + 8 + 4 + 4
    assert checkpoint.files == [WEIGHTS]


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_contain_the_same_tensors(folder: Path, shards: int) -> None:
    split_weights(folder, shards)
    checkpoint = Checkpoint(folder)
    assert len(checkpoint.files) == shards
    read = checkpoint.read(["d", "b", "a"])
    assert set(read) == {"a", "b", "d"}
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in read.items())
    assert all(tensor.dtype == TENSORS[name].dtype for name, tensor in read.items())


def test_a_tensor_missing_from_the_index_is_ignored(folder: Path) -> None:
    write_index(folder, {"a": WEIGHTS})
    assert list(Checkpoint(folder).tensors) == ["a"]


def refused(folder: Path, *words: str) -> None:
    """Check that opening is refused with a message that contains all words."""
    with pytest.raises(InvalidInputError) as raised:
        Checkpoint(folder)
    for word in words:
        assert word in f"{raised.value} {raised.value.hint}"


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), WEIGHTS, ".bin")


@pytest.mark.parametrize("keep", [0, 3, 8, 40, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, str(file), "not a complete safetensors file", "fetch")


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    split_weights(folder, 3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(folder, str(shard), "not a complete")


def test_a_missing_shard_is_refused(folder: Path) -> None:
    split_weights(folder, 3)
    (folder / "model-00003-of-00003.safetensors").unlink()
    refused(folder, "model-00003-of-00003.safetensors", "missing")


def test_an_index_entry_missing_from_its_shard_is_refused(folder: Path) -> None:
    index = write_index(folder, {"a": WEIGHTS, "x": WEIGHTS, "y": WEIGHTS})
    refused(folder, str(index), "x should be in", WEIGHTS, "2 such tensors")


@pytest.mark.parametrize("place", ["../outside.safetensors", "/outside.safetensors", "sub/model.safetensors"])
def test_an_index_entry_outside_the_folder_is_refused(folder: Path, place: str) -> None:
    save_file(TENSORS, folder.parent / "outside.safetensors")
    write_index(folder, {"a": place})
    refused(folder, f"a points to {place!r}", "file of this folder")


@pytest.mark.parametrize("place", ["", ".", "..", None, 5, ["model.safetensors"]])
def test_an_index_entry_without_a_file_name_is_refused(folder: Path, place: Any) -> None:
    write_index(folder, {"a": place})
    refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}', "\udcff"])
def test_a_broken_index_is_refused(folder: Path, text: str) -> None:
    index = folder / f"{WEIGHTS}.index.json"
    index.write_bytes(text.encode(errors="surrogateescape"))
    refused(folder, str(index), "not a safetensors index")


def test_one_weight_file_has_priority_over_an_index(folder: Path) -> None:
    """As in transformers: otherwise other weights would be used."""
    save_file({"other": torch.ones(1)}, folder / "other.safetensors")
    write_index(folder, {"other": "other.safetensors"})
    assert Checkpoint(folder).tensors.keys() == TENSORS.keys()


def test_integers_keep_their_dtype(folder: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int8)}, folder / WEIGHTS)
    assert Checkpoint(folder).read(["a"])["a"].dtype == torch.int8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_non_finite_tensor_is_named_with_its_file(folder: Path, value: float, dtype: torch.dtype) -> None:
    spoiled = torch.zeros(40, 50, dtype=dtype)
    spoiled[13, 7] = value
    save_file(TENSORS | {"b": spoiled}, folder / WEIGHTS)
    split_weights(folder, 2)
    checkpoint = Checkpoint(folder)
    assert set(checkpoint.read(["a", "c"])) == {"a", "c"}
    with pytest.raises(InvalidInputError, match="b holds NaN or infinite") as raised:
        checkpoint.read(["a", "b"])
    assert str(folder / checkpoint.tensors["b"].file) in str(raised.value)


def test_an_empty_tensor_counts_as_finite(folder: Path) -> None:
    save_file({"a": torch.zeros(0, 4)}, folder / WEIGHTS)
    assert Checkpoint(folder).read(["a"])["a"].shape == (0, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="pages of mapped files are counted on Linux only")
def test_pages_of_a_mapped_file_are_released_with_the_tensors(tmp_path: Path) -> None:
    size = 32 << 20
    save_file({"a": torch.ones(size // 4)}, tmp_path / WEIGHTS)
    checkpoint = Checkpoint(tmp_path)
    before = mapped_pages()
    read = checkpoint.read(["a"])  # reading checks each value
    assert mapped_pages() - before > 0.9 * size
    assert read["a"].sum() == size // 4
    del read
    assert mapped_pages() - before < 0.1 * size


def mapped_pages() -> int:
    return psutil.Process().memory_info().shared


def test_a_git_lfs_pointer_is_recognised(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(folder, str(folder / WEIGHTS), "git-lfs pointer", "git lfs pull")
