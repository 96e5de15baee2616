"""Tests the passes over the layers: which forwards run, what each setting leaves float, padding and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli import api
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.errors import UnsupportedError
from fa3cli.quantization.fallback import fused_groups
from fa3cli.runs.job import Job
from fa3cli.runs.passes import calibrate
from tests.export_files import WEIGHT_FILE
from tests.runs.reference import load, observe
from tests.sample_models import edit_weights, prepare, token_ids, write_lines, write_model

BOTH = pytest.mark.parametrize("numerics", ["improved", "reference"])


def job(folder: Path, lines: list[Any], **options: Any) -> Job:
    calib = write_lines(folder.parent / "lines.jsonl", lines)
    return prepare(folder, calib=calib, **{"recipe": "none"} | options)


def parameters(folder: Path, lines: list[Any], **options: Any) -> dict[str, LayerParameters]:
    return {layer.name: layer for layer in calibrate(job(folder, lines, **options))}


def ranges(layers: dict[str, LayerParameters]) -> dict[str, Tensor]:
    found = {}
    for layer in layers.values():
        found |= {name: torch.stack(ends) for name, ends in layer.linears.items()}
        for module, roles in layer.attentions.items():
            found |= {f"{module}.{role}": torch.stack(ends) for role, ends in roles.items()}
    return found


def export(folder: Path, lines: list[Any], **options: Any) -> tuple[dict[str, Tensor], Any]:
    made = job(folder, lines, **options)
    result = api.run(made)
    return load_file(made.output / WEIGHT_FILE), result


# ---- disable_level


def float_linears(folder: Path, **options: Any) -> set[str]:
    layers = parameters(folder, token_ids(9, 17, 5), **options)
    quantized = {name for layer in layers.values() for name in layer.linears}
    return {name for name in job(folder, token_ids(4)).quantized if name not in quantized}


@pytest.mark.parametrize("level", [0, 1, 2, 3, 5, 21, 99])
def test_the_reference_leaves_exactly_n_linears_float(llama: Path, level: int) -> None:
    assert len(float_linears(llama, disable_level=f"L{level}", numerics="reference")) == min(level, 21)


@pytest.mark.parametrize("level", [1, 2, 4, 5])
def test_improved_numerics_leave_whole_groups_float(llama: Path, level: int) -> None:
    exact = float_linears(llama, disable_level=f"L{level}", numerics="reference")
    found = float_linears(llama, disable_level=f"L{level}")
    groups = list(fused_groups(job(llama, token_ids(4)).quantized))
    assert exact <= found
    assert all(group <= found or not group & found for group in groups)
    assert all(name in exact or any(name in group and group & exact for group in groups) for name in found)


def test_the_linears_with_the_largest_inputs_fall_back(llama: Path) -> None:
    """An outlier channel after a norm gives the linears after it the widest ranges."""
    name = "model.layers.1.post_attention_layernorm.weight"
    edit_weights(llama, lambda tensors: tensors[name][3].mul_(500))
    fallen = float_linears(llama, disable_level="L2", numerics="reference")
    assert fallen == {"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"}


@BOTH
def test_disabled_names_do_not_count_for_disable_level(llama: Path, numerics: str) -> None:
    options = {"disable_names": ("*.mlp.*",), "numerics": numerics}
    named = {name for name in job(llama, token_ids(4)).quantized if ".mlp." in name}
    fallen = float_linears(llama, disable_level="L3", **options)
    assert named < fallen and len(fallen - named) == 3


# ---- the last linear


@BOTH
def test_the_last_linear_is_quantized_on_request(llama: Path, numerics: str) -> None:
    lines = token_ids(9, 17, 5)
    tensors, result = export(llama, lines, disable_last_linear=False, numerics=numerics, act_method=3)
    assert tensors["lm_head.weight"].dtype == torch.int8 and result.layers[-1].name == "lm_head"
    assert (result.layers[-1].quantized, result.layers[-1].fa) == (1, None)
    if numerics == "improved":
        found = parameters(llama, lines, disable_last_linear=False)["lm_head"].linears["lm_head"]
        inputs = observe(load(llama), lines).inputs["lm_head"]
        low, high = (sum(ends) / len(ends) for ends in zip(*inputs))
        assert (found[0].item(), found[1].item()) == pytest.approx((low, high), rel=1e-6)


@BOTH
def test_quantizing_a_head_tied_to_the_embedding_is_refused(tmp_path: Path, numerics: str) -> None:
    """The reference crashes on tied embeddings; with the last linear float they are exported once."""
    folder = write_model(tmp_path / f"tied-{tmp_path.name}", tie_word_embeddings=True)
    with pytest.raises(UnsupportedError, match="shares its weight with the embedding") as raised:
        job(folder, token_ids(4), disable_last_linear=False, numerics=numerics)
    assert raised.value.exit_code == 3
    tensors, _ = export(folder, token_ids(9, 5), numerics=numerics)
    assert "model.embed_tokens.weight" in tensors and "lm_head.weight" not in tensors


# ---- batches and padding


@BOTH
def test_heads_of_a_batch_are_not_mixed(llama: Path, numerics: str) -> None:
    """The reference views [B, H, S, D] as [H, -1], which mixes heads where B > 1."""
    one, other = token_ids(12, 12)
    batch = ranges(parameters(llama, [{"input_ids": [one, other]}], numerics="improved"))
    apart = ranges(parameters(llama, [one, other], numerics="improved"))
    for name, ends in batch.items():
        if name.endswith(".v"):  # the recall window of v holds all values
            torch.testing.assert_close(ends, apart[name], rtol=1e-5, atol=1e-6)
    if numerics == "reference":
        layer = "model.layers.0.self_attn.v"
        found = ranges(parameters(llama, [{"input_ids": [one, other]}], numerics=numerics))[layer]
        alone = [ranges(parameters(llama, [ids], numerics=numerics))[layer] for ids in (one, other)]
        assert found.shape == (2, 2)
        # The inputs of v_proj are quantized in the range of both samples, so they are nearly the same.
        torch.testing.assert_close(found[1], torch.maximum(*(bounds[1] for bounds in alone)), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("act_method", [1, 2, 3])
@pytest.mark.parametrize("anti_method", ["none", "m1", "m3"])
def test_padding_after_a_sample_changes_nothing(llama: Path, act_method: int, anti_method: str) -> None:
    (ids,) = token_ids(15)
    padded = {"input_ids": ids + [0] * 9, "attention_mask": [1] * 15 + [0] * 9}
    options = {"act_method": act_method, "anti_method": anti_method, "attn_implementation": "eager"}
    found, plain = (ranges(parameters(llama, [line], **options)) for line in (padded, ids))
    counted = ranges(parameters(llama, [padded["input_ids"]], **options))
    assert found.keys() == plain.keys()
    for name, ends in found.items():
        torch.testing.assert_close(ends, plain[name], rtol=2e-3, atol=2e-3)
    assert not all(torch.allclose(ends, plain[name], rtol=2e-3, atol=2e-3) for name, ends in counted.items())


def test_the_reference_counts_padding(llama: Path) -> None:
    (ids,) = token_ids(15)
    padded = {"input_ids": ids + [0] * 9, "attention_mask": [1] * 15 + [0] * 9}
    found, plain = (ranges(parameters(llama, [line], numerics="reference")) for line in (padded, ids))
    assert not all(torch.allclose(ends, plain[name], rtol=2e-3, atol=2e-3) for name, ends in found.items())


# ---- order


@pytest.mark.parametrize("act_method", [1, 2])
def test_improved_numerics_do_not_depend_on_the_order_of_samples(llama: Path, act_method: int) -> None:
    lines = token_ids(9, 17, 5, 30, 2)
    found, again = (ranges(parameters(llama, order, act_method=act_method)) for order in (lines, lines[::-1]))
    assert all(torch.equal(ends, again[name]) for name, ends in found.items())


def test_a_layer_of_the_reference_sees_quantized_activations(llama: Path) -> None:
    lines = token_ids(9, 17, 5)
    found, floats = (ranges(parameters(llama, lines, numerics=kind)) for kind in ("reference", "improved"))
    first, later = "model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"
    torch.testing.assert_close(found[first], floats[first])
    assert not torch.equal(found[later], floats[later])


# ---- fa_amp


def test_the_score_error_measures_the_effect_of_int8_on_the_output(llama: Path) -> None:
    lines = token_ids(9, 17, 5)

    def scores() -> list[float]:
        layers = parameters(llama, lines, fa_amp=1, fa_score="error")
        return [score for layer in layers.values() for score in layer.scores.values()]

    before = scores()
    assert len(before) == 3 and all(10 < score < 80 for score in before)

    def stretch(tensors: dict[str, Tensor]) -> None:
        # A channel of v 100 times as large makes the int8 steps of its head coarser; o_proj ignores this channel.
        tensors["model.layers.1.self_attn.v_proj.weight"][0].mul_(100)
        for query_head in (0, 1):
            tensors["model.layers.1.self_attn.o_proj.weight"][:, query_head * 8].zero_()

    edit_weights(llama, stretch)
    after = scores()
    assert after[1] < before[1] - 6
    _, result = export(llama, lines, fa_amp=1, fa_score="error")
    assert [layer.fa_score for layer in result.layers] == after
    assert [layer.fa for layer in result.layers] == [score != min(after) for score in after]


@BOTH
@pytest.mark.parametrize("score", ["reference", "error"])
def test_fa_amp_above_the_number_of_layers_leaves_all_attention_float(llama: Path, score: str, numerics: str) -> None:
    tensors, result = export(llama, token_ids(9), fa_amp=9, fa_score=score, numerics=numerics)
    assert [layer.fa for layer in result.layers] == [False] * 3
    assert not [name for name in tensors if ".fa_" in name]


# ---- mm_tensor


@BOTH
def test_mm_tensor_gives_one_scale_per_weight(llama: Path, numerics: str) -> None:
    tensors, _ = export(llama, token_ids(9), mm_tensor=True, numerics=numerics)
    name = "model.layers.0.mlp.up_proj"
    weight = load(llama).get_submodule(name).weight
    assert tensors[f"{name}.weight_scale"].shape == tensors[f"{name}.weight_offset"].shape == (1,)
    assert tensors[f"{name}.weight_scale"].item() == pytest.approx(weight.abs().max().item() / 127)
    assert tensors[f"{name}.deq_scale"].shape == tensors[f"{name}.quant_bias"].shape == (48,)
    error = tensors[f"{name}.weight"].float() * tensors[f"{name}.weight_scale"] - weight
    assert error.abs().max() <= tensors[f"{name}.weight_scale"].item() * 0.501


# ---- half precision


def test_a_float16_reference_export_warns_of_scales_that_underflow(tmp_path: Path) -> None:
    folder = write_model(tmp_path / f"half-{tmp_path.name}", dtype=torch.float16)

    def shrink(tensors: dict[str, Tensor]) -> None:
        # Rows near zero: weight_scale times input_scale is below the smallest float16.
        tensors["model.layers.0.self_attn.o_proj.weight"][:4].mul_(1e-5)

    edit_weights(folder, shrink)
    name = "model.layers.0.self_attn.o_proj"
    tensors, result = export(folder, token_ids(9), numerics="reference")
    assert any(name in warning and "underflows" in warning for warning in result.warnings)
    assert (tensors[f"{name}.quant_bias"] == -(2**31)).any()
    folder = folder.rename(folder.with_name(f"again-{tmp_path.name}"))
    tensors, result = export(folder, token_ids(9), output=tmp_path / "improved")
    assert result.warnings == () and (tensors[f"{name}.quant_bias"] != -(2**31)).all()


# ---- AntiOutlier's norms


@BOTH
def test_norms_with_a_bias_store_it_under_both_names(tmp_path: Path, numerics: str) -> None:
    folder = write_model(tmp_path / f"stablelm-{tmp_path.name}", "stablelm")
    tensors, _ = export(folder, token_ids(9, 17), anti_method="m1", numerics=numerics)
    float_norm = load(folder).model.norm
    for leaf in ("bias", "module.bias"):
        assert torch.equal(tensors[f"model.norm.{leaf}"], float_norm.bias)
    smoothed = tensors["model.layers.0.input_layernorm.bias"]
    assert torch.equal(smoothed, tensors["model.layers.0.input_layernorm.module.bias"])
    assert not torch.equal(smoothed, load(folder).model.layers[0].input_layernorm.bias)
