"""Tests the check of QuaRot's rotation, which the description names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.exports.exports import Export, findings_of
from tests.exports.msmodelslim_forms import ROTATION, ascendv1, describe_rotation, rotate


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
