"""Tests the whole job for each family of mixtures, and for a checkpoint in FP8: from the patch to the report.

Without AntiOutlier, which changes weights: the judge compares them. tests/quantization/test_family_recipes.py runs it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli import api, patching
from fa3cli.errors import StoppedError
from fa3cli.exports.layout import FA_TENSORS, LINEAR_TENSORS
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.published.fp8 import Fp8Checkpoint
from fa3cli.planning.plan import Plan
from fa3cli.runs.result import Result
from tests.conftest import ROOT
from tests.models.published.test_conversions import TYPES, published
from tests.models.published.test_fp8 import BLOCK, SIZES, to_blocks
from tests.runs.supported_exports.judge import problems
from tests.sample_models import (
    WEIGHTS,
    edit_config,
    edit_weights,
    prepare,
    snapshot,
    token_ids,
    write_lines,
    write_model,
)

MIXTURES = [
    "mixtral",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "minimax_m2",
    "gpt_oss",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
]
FP8 = "qwen3"
FAMILIES: dict[str, dict[str, Any]] = {name: {**TYPES[name], "dtype": torch.bfloat16} for name in MIXTURES}
FAMILIES[FP8] = SIZES
LATENT_ATTENTION = ("deepseek_v2", "deepseek_v3")
# Parts of routers that these families publish in float32, beside weights in bfloat16.
FLOAT32: dict[str, tuple[str, ...]] = {
    "deepseek_v3": ("e_score_correction_bias",),
    "glm4_moe": ("e_score_correction_bias",),
    "ernie4_5_moe": ("e_score_correction_bias", ".gate.weight"),
    "hunyuan_v1_moe": (".gate.wg.weight",),
}
ROUTER = (".gate.weight", ".gate.wg.weight", ".router.weight", ".router.bias", ".e_score_correction_bias")


@dataclass(frozen=True)
class Family:
    """A published model, the same weights as floats in a folder that is not patched, and its plan and export."""

    name: str
    folder: Path
    floats: Path
    calib: Path
    planned: Plan
    result: Result

    @property
    def output(self) -> Path:
        return self.result.output

    @property
    def values(self) -> dict[str, str]:
        """The value of each tensor in the description."""
        described = json.loads((self.output / "quant_model_description.json").read_text())
        return {name: value for name, value in described.items() if "." in name}

    @property
    def tensors(self) -> dict[str, Tensor]:
        [file] = self.output.glob("*.safetensors")
        return load_file(file)


def publish(family: str, tensors: dict[str, Tensor]) -> None:
    """Store the parts of routers that the family publishes in float32, with values that bfloat16 would round."""
    for name in [name for name in tensors if name.endswith(FLOAT32.get(family, ()))]:
        tensors[name] = tensors[name].float() + torch.linspace(0, 0.01, tensors[name].numel()).view_as(tensors[name])


def write_floats(folder: Path, floats: Path) -> None:
    """Write a copy of a checkpoint in FP8 whose weights are dequantized."""
    shutil.copytree(folder, floats)
    checkpoint = Fp8Checkpoint(Checkpoint(folder))

    def replace(tensors: dict[str, Tensor]) -> None:
        tensors.clear()
        tensors.update(checkpoint.read(checkpoint.tensors))

    edit_weights(floats, replace)
    config = json.loads((floats / "config.json").read_text())
    del config["quantization_config"]
    (floats / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    name, place = request.param, tmp_path_factory.mktemp(request.param)
    folder, floats = place / f"family-{name}", place / "floats"
    write_model(folder, name, patched=False, **FAMILIES[name])
    if name == FP8:
        edit_weights(folder, to_blocks)
        edit_config(folder, quantization_config=BLOCK)
        write_floats(folder, floats)
    else:
        edit_weights(folder, lambda tensors: publish(name, tensors))
        shutil.copytree(folder, floats)
    patching.patch(folder)
    calib = write_lines(place / "calib.jsonl", token_ids(16, 12, 20))
    job = prepare(folder, output=place / "out", calib=calib, anti_method="none")
    return Family(name, folder, floats, calib, api.plan(job), api.run(job))


def test_a_judge_without_fa3_accepts_the_export(family: Family, tmp_path: Path) -> None:
    """Each int8 weight is within half a step of its float weight, and transformers computes about the same with it."""
    assert list(problems(family.output, family.floats, tmp_path / "dequantized")) == []


def test_experts_are_dynamic_and_routers_are_equal_bit_for_bit(family: Family) -> None:
    floats, tensors, values = load_file(family.floats / WEIGHTS), family.tensors, family.values
    experts = [name for name in floats if ".experts." in name]
    routers = [name for name in floats if name.endswith(ROUTER)]
    assert bool(experts) == bool(routers) == (family.name != FP8)
    for name in experts:
        assert values[name] == ("FLOAT" if family.name == "gpt_oss" else "W8A8_DYNAMIC")
    for name in routers:
        assert values[name] == "FLOAT"
        assert tensors[name].dtype == floats[name].dtype and torch.equal(tensors[name], floats[name])


def test_an_export_has_the_published_names_and_those_of_scales(family: Family) -> None:
    names, values = published(family.floats), family.values
    wanted = set(names)
    for name in names:
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and values[name] != "FLOAT":
            wanted |= {f"{module}.{tensor}" for tensor in LINEAR_TENSORS[values[name]]}
    if family.name not in LATENT_ATTENTION:
        wanted |= {f"model.layers.{layer}.self_attn.{tensor}" for layer in range(3) for tensor in FA_TENSORS}
    tied = json.loads((family.folder / "config.json").read_text())["tie_word_embeddings"]
    assert family.tensors.keys() == wanted
    assert values.keys() == wanted | ({"lm_head.weight"} if tied else set())


def test_the_plan_counts_what_the_run_makes(family: Family) -> None:
    planned, layers = family.planned, family.result.layers
    written = sum(map(len, snapshot(family.output).values()))
    small = 4096  # config.json and most of the report, which a plan does not count
    assert abs(planned.bytes_written - written) < 0.01 * written + small
    assert planned.quantized_linears == sum(layer.quantized for layer in layers)
    assert planned.attentions == (0 if family.name in LATENT_ATTENTION else 3) == sum(bool(item.fa) for item in layers)
    assert planned.peak_memory is not None


def test_the_report_shows_the_comparison_of_a_sound_export(
    family: Family, fa3: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    export, page = tmp_path / "out", tmp_path / "report.html"
    shutil.copytree(family.output, export)  # the comparison is saved in the export's report
    code, _, err = fa3("verify", export, "--against", family.folder, "--eval", family.calib)
    assert code == 0, err
    code, out, err = fa3("report", export, "--json", "--html", page)
    assert code == 0 and export.name in page.read_text("utf-8"), err
    facts = json.loads(out)
    assert 0 < facts["accuracy"]["kl_divergence"] < 0.2
    assert [layer["quantized"] for layer in facts["layers"]] == [layer.quantized for layer in family.result.layers]
    assert len(facts["scales"]) == 3 * family.planned.attentions and not facts["remarks"]


def test_a_resumed_run_makes_the_same_bytes(family: Family, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stops = iter([False, True])
    with pytest.raises(StoppedError):
        api.run(prepare(family.folder, output=output, calib=family.calib, anti_method="none"), stop=lambda: next(stops))
    assert not output.exists()
    api.run(prepare(family.folder, output=output, calib=family.calib, anti_method="none"), resume="required")
    assert snapshot(output) == snapshot(family.output)


@pytest.mark.parametrize("family", ["glm4_moe", FP8], indirect=True)
def test_two_ranks_make_the_same_bytes(family: Family, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fa3cli", "quantize", family.folder, "--calib", family.calib, "--nproc", "2"]
    command += ["--anti-method", "none", "--output", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path / "out") == snapshot(family.output)
