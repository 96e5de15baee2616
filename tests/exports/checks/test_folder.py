"""Tests the checks of the folder's other files and of permissions."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file

from fa3cli.exports.verification import verify_export
from tests.exports.exports import WEIGHTS, Export, build_for, findings_of


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
