"""Tests what every target refuses, warns of and stores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.exports.targets import TARGETS, known_targets, targets_named
from fa3cli.exports.targets.target import Written
from fa3cli.exports.targets.vllm import Vllm
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.linear import quantize_linear
from tests.exports.targets.made import LINEARS

NAMES = [f"{name}.weight" for name in LINEARS]


def test_targets_are_found_by_name_in_a_fixed_order() -> None:
    assert [target.name for target in targets_named(["vllm", "modelslim", "vllm"])] == ["modelslim", "vllm"]
    assert [target.name for target in targets_named([])] == ["modelslim"]
    with pytest.raises(UsageError, match=r"'vLLM'.*modelslim, mindie, vllm-ascend, vllm"):
        targets_named(["vLLM"])


def test_pipelines_and_language_models_have_different_targets() -> None:
    assert [target.name for target in targets_named([], pipelines=True)] == ["mindie-sd"]
    assert [target.name for target in targets_named(["mindie-sd"], pipelines=True)] == ["mindie-sd"]
    with pytest.raises(UnsupportedError, match="vllm: is for language models, not transformers") as raised:
        targets_named(["mindie-sd", "vllm"], pipelines=True)
    assert raised.value.exit_code == 3 and raised.value.hint == "choose mindie-sd"
    with pytest.raises(UnsupportedError, match="mindie-sd: is for transformers of diffusion") as raised:
        targets_named(["mindie-sd"])
    assert raised.value.hint == "choose modelslim or mindie or vllm-ascend or vllm"
    assert len(known_targets(["mindie-sd", "vllm"])) == 2  # an existing export can be verified for any target


def made_linear(dtype: torch.dtype, low: float, high: float) -> dict[str, torch.Tensor]:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    return quantize_linear(weight, None, torch.tensor([low]), torch.tensor([high]), dtype)


@given(
    low=st.floats(-50, 0),
    high=st.floats(0.1, 50),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_parameters_for_vllm_describe_the_same_linear(low: float, high: float, dtype: torch.dtype) -> None:
    """`scale * (q - zero_point)` is the input that `deq_scale * (q @ weight + quant_bias)` stands for."""
    tensors = made_linear(dtype, low, high)
    stored = TARGETS["vllm"].linear(tensors)
    assert stored.keys() == set(TARGETS["vllm"].linear_tensors)
    rounded, scale = stored["input_scale"].float(), tensors["input_scale"].float()
    assert stored["input_scale"].dtype == dtype and torch.allclose(rounded, scale, rtol=2**-15)
    levels = torch.arange(-128, 128)
    assert torch.equal((levels * rounded).double(), levels * rounded.double())  # exact, as vLLM's kernel needs
    zero_point = stored["input_zero_point"]
    assert zero_point.dtype == torch.int8 and zero_point.shape == (1,)
    assert torch.equal(zero_point.to(dtype), tensors["input_offset"])
    rows = stored["weight"].sum(1, dtype=torch.int64)
    assert torch.equal(tensors["quant_bias"].long(), -rows * zero_point.long())


def made_heads(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for role, heads in (("q", 4), ("k", 2), ("v", 2)):
        ranges = torch.arange(1.0, heads + 1)
        made |= quantize_heads(role, -ranges, ranges, dtype)
    return made


def test_vllm_stores_one_scale_per_head() -> None:
    heads = made_heads()
    stored = Vllm("attn_head").attention(heads, 16, {})
    assert {name: tuple(scale.shape) for name, scale in stored.items()} == {
        "q_scale": (4, 1, 1),
        "k_scale": (2, 1, 1),
        "v_scale": (2, 1, 1),
    }
    reach = 448 * stored["k_scale"].float().flatten()
    assert torch.allclose(reach, 2 * 127 * heads["fa_k.scale"].float().flatten(), rtol=2**-8)
    assert stored["k_scale"].dtype == heads["fa_k.scale"].dtype


def test_vllm_stores_one_scale_per_layer_or_none() -> None:
    heads = made_heads()
    per_head, per_layer = (Vllm(scheme).attention(heads, 16, {}) for scheme in ("attn_head", "tensor"))
    assert per_layer == {name: per_head[name].max().view(1) for name in ("q_scale", "k_scale", "v_scale")}
    assert TARGETS["vllm"].attention(heads, 16, {}) == {}


@pytest.mark.parametrize("scheme", ["none", "tensor", "attn_head"])
def test_the_config_for_vllm_names_the_scheme_of_the_scales(scheme: str) -> None:
    linear, attention = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn"
    written = Written([f"{linear}.weight"], {linear: "W8A8"}, [], [attention], [], {"LlamaAttention"})
    config = Vllm(scheme).config({}, written)["quantization_config"]
    groups = [group["targets"] for group in config["config_groups"].values()]
    if scheme == "none":
        assert config["kv_cache_scheme"] is None and groups == [["Linear"]]
    else:
        assert config["kv_cache_scheme"]["strategy"] == scheme and groups == [["Linear"], ["LlamaAttention"]]


def test_vllm_ascend_repeats_the_scale_of_a_head_per_channel() -> None:
    heads = made_heads()
    stored = TARGETS["vllm-ascend"].attention(heads, 16, {})
    assert stored.keys() == set(TARGETS["vllm-ascend"].attention_tensors)
    for leaf, role in (("k_proj", "k"), ("v_proj", "v")):
        scale = stored[f"{leaf}.kv_cache_scale"]
        assert scale.shape == (32,) and scale.dtype == torch.bfloat16
        assert torch.equal(scale.view(2, 16), heads[f"fa_{role}.scale"].expand(2, 16))
        assert not stored[f"{leaf}.kv_cache_offset"].any()


def test_vllm_ascend_stores_the_scale_of_each_channel() -> None:
    heads, channels = made_heads(), {"k": torch.rand(2, 16), "v": torch.rand(2, 16)}
    stored = TARGETS["vllm-ascend"].attention(heads, 16, channels)
    for leaf, role in (("k_proj", "k"), ("v_proj", "v")):
        scale = stored[f"{leaf}.kv_cache_scale"]
        assert torch.equal(scale, (channels[role] / 127).flatten().bfloat16())
    # A model that repeats the heads of K before they are observed: the rows of k_proj are fewer.
    assert stored["k_proj.kv_cache_scale"].numel() == 32
    assert TARGETS["vllm-ascend"].attention(heads, 8, channels)["k_proj.kv_cache_scale"].numel() == 16


@pytest.mark.parametrize("bias", [None, torch.ones(3)])
@pytest.mark.parametrize("name", TARGETS)
def test_a_smoothed_norm_has_the_tensors_of_the_target(name: str, bias: torch.Tensor | None) -> None:
    stored = TARGETS[name].norm(torch.full((3,), 2.0), bias)
    assert set(stored) <= set(TARGETS[name].norm_tensors)
    assert torch.equal(stored["weight"], torch.full((3,), 2.0))
    if name in ("modelslim", "mindie"):
        assert len(stored) == 4 and stored["bias"].eq(0 if bias is None else 1).all()
    else:
        assert ("bias" in stored) == (bias is not None)


@pytest.mark.parametrize("name", TARGETS)
def test_meta_tensors_give_the_same_shapes_and_dtypes(name: str) -> None:
    """They become gaps that another rank fills: every target must know their sizes."""
    target, tensors, heads = TARGETS[name], made_linear(torch.bfloat16, -1, 1), made_heads()
    for form, made in ((target.linear, (tensors,)), (target.attention, (heads, 16, {}))):
        real = form(*made)
        empty = form({leaf: tensor.to("meta") for leaf, tensor in made[0].items()}, *made[1:])
        assert [(leaf, tensor.shape, tensor.dtype) for leaf, tensor in empty.items()] == [
            (leaf, tensor.shape, tensor.dtype) for leaf, tensor in real.items()
        ]
        assert all(tensor.is_meta for tensor in empty.values())
