"""Tests the checks of the folder's other files and of permissions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fa3cli.exports.verification import verify_export
from tests.exports.exports import WEIGHTS, Export, build_for, findings_of
from tests.exports.msmodelslim_forms import ROTATION, ascendv1, describe_rotation, rotate


def stale_index(export: Export) -> None:
    (export.folder / "model.safetensors.index.json").write_text("{}")


def float_shard(export: Export) -> None:
    save_file({"a": torch.ones(1)}, export.folder / "model-00001-of-00002.safetensors")


def stray_safetensors(export: Export) -> None:
    save_file({"a": torch.ones(1)}, export.folder / "adapter.safetensors")


def no_tokenizer(export: Export) -> None:
    (export.folder / "tokenizer.json").unlink(missing_ok=True)


def leftover(name: str) -> Callable[[Export], None]:
    return lambda export: (export.folder / name).touch()


def dangling(name: str) -> Callable[[Export], None]:
    return lambda export: (export.folder / name).symlink_to("../blobs/gone")


def mode(name: str, bits: int) -> Callable[[Export], None]:
    return lambda export: (export.folder / name).chmod(bits)


@pytest.mark.parametrize("mutation", [stale_index, float_shard])
def test_files_of_the_float_model_are_errors(mutation: Callable[[Export], None], found_by: Callable) -> None:
    found_by("stale-files", mutation)


@pytest.mark.parametrize(
    ("check", "mutation"),
    [
        ("stale-files", stray_safetensors),
        ("tokenizer", no_tokenizer),
        ("unfinished", leftover(f"{WEIGHTS}.part")),
        ("unfinished", leftover("adapter.ragged")),
        ("unfinished", leftover("config.json.tmp")),
        ("unfinished", leftover("out.journal")),
        ("links", dangling("merges.txt")),
        ("permissions", mode("config.json", 0o666)),
        ("permissions", mode(".", 0o777)),
        ("permissions", mode(WEIGHTS, 0o040)),
    ],
)
def test_a_mutation_gives_a_warning(check: str, mutation: Callable[[Export], None], found_by: Callable) -> None:
    found_by(check, mutation, "warning")


def test_a_description_in_a_vllm_export_is_a_stale_file(tmp_path) -> None:
    export = build_for("vllm", tmp_path)
    assert findings_of(tmp_path, "vllm") == []
    (tmp_path / "quant_model_description.json").write_text("{}")
    assert [finding.check for finding in findings_of(export.folder, "vllm")] == ["stale-files"]


def test_pipes_do_not_block_verification(export: Export) -> None:
    for name in (WEIGHTS, "config.json"):
        (export.folder / name).unlink()
        os.mkfifo(export.folder / name)
    assert {"weights", "config"} <= {finding.check for finding in verify_export(export.folder).findings}


def test_a_folder_in_place_of_a_file_is_found(export: Export) -> None:
    for name in (WEIGHTS, "config.json"):
        (export.folder / name).unlink()
        (export.folder / name).mkdir()
    assert {"weights", "config"} <= {finding.check for finding in verify_export(export.folder).findings}


def outside(export: Export) -> None:
    """Name a valid file beside the export."""
    rotate(export)
    (export.folder / ROTATION).rename(export.folder.parent / "quarot.safetensors")
    rotate(export, "../quarot.safetensors")


def absolute(export: Export) -> None:
    rotate(export, str(export.folder / ROTATION))


def linked_folder(export: Export) -> None:
    """Lead to another folder through a link."""
    rotate(export)
    (export.folder / "optional").rename(export.folder.parent / "elsewhere")
    (export.folder / "optional").symlink_to(export.folder.parent / "elsewhere")


def pipe(export: Export) -> None:
    rotate(export)
    (export.folder / ROTATION).unlink()
    os.mkfifo(export.folder / ROTATION)


def cut(export: Export) -> None:
    rotate(export)
    (export.folder / ROTATION).write_bytes((export.folder / ROTATION).read_bytes()[:-1])


def stored(**tensors: torch.Tensor) -> Callable[[Export], None]:
    def store(export: Export) -> None:
        rotate(export)
        save_file(tensors, export.folder / ROTATION)

    return store


@pytest.mark.parametrize("target", ["modelslim", "vllm-ascend"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda export: rotate(export, "optional/other.safetensors"), "no such file"),
        (lambda export: rotate(export, "optional"), "no such file"),
        (lambda export: rotate(export, ""), "expected the path of a file"),
        (lambda export: rotate(export, "a\0b"), "outside the export"),
        (lambda export: rotate(export, "a" * 5000), "no such file"),
        (lambda export: describe_rotation(export, {"rotation_map": {"global_rotation": 3}}), "expected the path"),
        (lambda export: describe_rotation(export, {"rotation_map": ["optional"]}), "expected an object"),
        (lambda export: describe_rotation(export, None), "expected an object"),
        (outside, "outside the export"),
        (absolute, "outside the export"),
        (linked_folder, "outside the export"),
        (pipe, "no such file"),
        (cut, "cannot be read"),
        (stored(other=torch.eye(32)), "holds no tensor global_rotation"),
        (stored(global_rotation=torch.eye(16)), r"of shape \[16, 16\], expected \[32, 32\]"),
    ],
)
def test_a_rotation_that_no_engine_can_read_is_an_error(
    spoil: Callable[[Export], None], message: str, target: str, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    spoil(ascendv1(folder))
    [finding] = [finding for finding in findings_of(folder, target) if finding.severity == "error"]
    assert (finding.check, finding.subject) == ("rotation", "optional")
    assert re.search(message, finding.message)


@pytest.mark.parametrize(
    "describe",
    [
        rotate,
        lambda export: describe_rotation(export, {}),
        lambda export: describe_rotation(export, {"rotation_map": {}}),
    ],
)
def test_a_rotation_in_the_export_or_none_is_valid(describe: Callable[[Export], None], tmp_path: Path) -> None:
    describe(ascendv1(tmp_path))
    assert [finding for finding in findings_of(tmp_path, "vllm-ascend") if finding.severity == "error"] == []


def test_the_file_may_be_a_link_as_in_download_caches(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    rotate(ascendv1(folder))
    (folder / ROTATION).rename(tmp_path / "blob")
    (folder / ROTATION).symlink_to(tmp_path / "blob")
    assert [finding for finding in findings_of(folder, "vllm-ascend") if finding.severity == "error"] == []
