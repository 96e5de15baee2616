"""Tests the comparison of an export's images with the float pipeline's, on a tiny Flux."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli import patching
from fa3cli.comparing import images as comparison
from fa3cli.comparing.images import ImageComparison, compare_images
from fa3cli.errors import InvalidInputError
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.exports.targets import TARGETS
from fa3cli.pipelines.opening import OpenedPipeline, open_pipeline
from fa3cli.runs.progress import Progress
from tests.patching.diffusion.tiny_pipelines import make
from tests.pipelines.exports import SAMPLING, Heads, block_linears, head_parameters, write_export


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "flux"
    make("FluxTransformer2DModel", folder)
    patching.patch(folder)
    return folder


@pytest.fixture(scope="module")
def opened(flux: Path) -> OpenedPipeline:
    return open_pipeline(flux, fa=True)


@pytest.fixture(scope="module")
def heads(opened: OpenedPipeline) -> Heads:
    return head_parameters(opened)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na black cat\n")
    return file


def test_a_quantized_transformer_gives_similar_images(
    tmp_path: Path, flux: Path, opened: OpenedPipeline, heads: Heads, prompts: Path
) -> None:
    export = write_export(tmp_path / "export", opened, heads, block_linears(opened))
    told: list[Progress] = []
    found = compare_images(export, flux, prompts, progress=told.append)
    assert found.prompts == len(found.psnr) == 2
    assert all(30 < ratio < 100 for ratio in found.psnr)
    assert found.mean_psnr == pytest.approx(sum(found.psnr) / 2)
    assert 0 < found.largest_difference < 0.2
    assert (told[-1].layer, told[-1].sample) == (told[-1].layers, told[-1].samples) == (2, 12)
    assert compare_images(export, flux, prompts) == found
    linears = write_export(tmp_path / "linears", opened, {}, block_linears(opened))
    assert compare_images(linears, flux, prompts).psnr != found.psnr


def test_a_float_transformer_gives_identical_images(
    tmp_path: Path, flux: Path, opened: OpenedPipeline, prompts: Path
) -> None:
    export = write_export(tmp_path / "export", opened, {})
    assert compare_images(export, flux, prompts) == ImageComparison(2, (None, None), None, 0.0)


def test_coarser_scales_lower_the_psnr(
    tmp_path: Path, flux: Path, opened: OpenedPipeline, heads: Heads, prompts: Path
) -> None:
    coarse = {
        name: {leaf: tensor * 40 if leaf.endswith("scale") else tensor for leaf, tensor in tensors.items()}
        for name, tensors in heads.items()
    }
    found, worse = (
        compare_images(write_export(tmp_path / name, opened, added), flux, prompts).mean_psnr
        for name, added in (("export", heads), ("coarse", coarse))
    )
    assert worse < found - 10


def test_psnr_equals_a_calculation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_BLOCK", 5)
    expected = torch.rand(1, 3, 4, 4)
    found = expected.clone()
    found[0, 0, 0, 0] += 0.5
    found[0, 2, 3, 3] -= 0.25
    found[0, 1, 1, 1] = torch.nan  # the largest possible difference
    square, largest = comparison._difference(expected, found)
    assert square == pytest.approx((0.25 + 0.0625 + 1) / 48) and largest == 1
    one_tenth, *_ = comparison._comparison([(0.01, 0.1), (0.0, 0.0)]).psnr
    assert one_tenth == pytest.approx(20)
    assert comparison._comparison([(0.01, 0.1), (0.0, 0.0)]).mean_psnr == one_tenth


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (None, "does not say how the pipeline was sampled"),
        ({}, "does not say how the pipeline was sampled"),
        ({"component": "transformer"}, "sampling"),
        ({"component": "transformer", "sampling": 3}, "does not say"),
        ({"component": None, "sampling": {}}, "component is None"),
        ({"component": "transformer", "sampling": SAMPLING | {"steps": "3"}}, "steps is '3'"),
        ({"component": "transformer", "sampling": SAMPLING | {"height": True}}, "height is True"),
        ({"component": "transformer", "sampling": SAMPLING | {"guidance": float("nan")}}, "guidance is nan"),
        ({"component": "transformer_2", "sampling": SAMPLING}, "has no transformer_2"),
    ],
)
def test_reports_without_valid_sampling_are_refused(
    tmp_path: Path, flux: Path, opened: OpenedPipeline, prompts: Path, identity: Any, words: str
) -> None:
    export = write_export(tmp_path / "export", opened, {})
    identity = {"dtype": "torch.float32", **identity} if identity else identity
    (export / REPORT_FILE).write_text(json.dumps({"identity": identity}))
    with pytest.raises(InvalidInputError, match=words):
        compare_images(export, flux, prompts)


def test_an_export_without_a_report_or_weights_is_refused(
    tmp_path: Path, flux: Path, opened: OpenedPipeline, prompts: Path
) -> None:
    export = write_export(tmp_path / "export", opened, {})
    (export / TARGETS["mindie-sd"].weight_file).unlink()
    with pytest.raises(InvalidInputError, match="no weights"):
        compare_images(export, flux, prompts)
    (export / REPORT_FILE).unlink()
    with pytest.raises(InvalidInputError, match="does not say how"):
        compare_images(export, flux, prompts)
