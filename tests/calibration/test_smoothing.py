"""Tests AntiOutlier on a model in memory: its weights change, its output does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.guide.anti_outlier import AntiOutlier
from fa3cli.guide.configs import AntiOutlierConfig
from fa3cli.guide.models import smoothing_of
from tests.sample_models import random_model, token_ids

METHODS = ["m1", "m2", "m3", "m4", "m5", "m6"]
MODELS = {
    "llama": ("llama", {}),
    "llama, a value head for each query head": ("llama", {"num_key_value_heads": 4}),
    "llama, one value head": ("llama", {"num_key_value_heads": 1}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2, a value head for each query head": ("qwen2", {"num_key_value_heads": 4}),
}
LINEARS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]


def make(name: str = "llama", **options: Any) -> nn.Module:
    model_type, more = MODELS[name]
    return with_outliers(random_model(model_type, num_hidden_layers=2, **more, **options))


def with_outliers(model: nn.Module) -> nn.Module:
    """Add outlier channels to the inputs of q, k, v, gate and up, by the weights of norms."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[3] *= 40
            layer.post_attention_layernorm.weight[7] *= 40
    return model


def samples() -> list[list[Tensor]]:
    return [[torch.tensor([ids])] for ids in token_ids(12, 7, 9)]


def smooth(model: nn.Module, method: str, numerics: str = "improved", data: Any = None) -> None:
    config = AntiOutlierConfig(anti_method=method, dev_type="cpu", numerics=numerics)
    AntiOutlier(model, calib_data=data or samples(), cfg=config).process()


@torch.no_grad()
def logits(model: nn.Module) -> list[Tensor]:
    return [model(ids).logits.double() for (ids,) in samples()]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def inputs_of(model: nn.Module, linear: str) -> Tensor:
    """All tokens of all samples."""
    seen = []
    hook = model.get_submodule(linear).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0]))
    logits(model)
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("numerics", ["improved", "reference"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_smoothed_model_computes_the_same_with_other_weights(method: str, name: str, numerics: str) -> None:
    model = make(name)
    before, weights = logits(model), state(model)
    smooth(model, method, numerics)
    for found, expected in zip(logits(model), before):
        assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    after = state(model)
    assert after.keys() == weights.keys()
    assert all(
        tensor.dtype == weights[key].dtype and tensor.shape == weights[key].shape for key, tensor in after.items()
    )
    changed = {key for key in after if not torch.equal(after[key], weights[key])}
    norms = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        assert {f"{prefix}{norm}" for norm in norms} <= changed
        assert {f"{prefix}mlp.gate_proj.weight", f"{prefix}self_attn.q_proj.weight"} <= changed
        # m4 and m6 also smooth o and down; the bias of their source is divided together with its weight.
        for behind, source in (("mlp.down_proj", "mlp.up_proj"), ("self_attn.o_proj", "self_attn.v_proj")):
            assert (f"{prefix}{behind}.weight" in changed) == (method in ("m4", "m6"))
            if f"{prefix}{source}.bias" in weights:
                assert (f"{prefix}{source}.bias" in changed) == (method in ("m4", "m6"))
    others = ("embed_tokens", "lm_head", "model.norm", "q_proj.bias", "gate_proj.bias", "down_proj.bias")
    assert not [key for key in changed if any(other in key for other in others)]


@pytest.mark.parametrize("method", METHODS)
def test_outlier_channels_become_smaller(method: str) -> None:
    def outlier_ratio(linear: str) -> float:
        """The largest input value divided by that of a typical channel."""
        largest = inputs_of(model, linear).abs().amax(dim=0)
        return (largest.max() / largest.median()).item()

    model = make()
    linears = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate_proj"]
    before = [outlier_ratio(linear) for linear in linears]
    smooth(model, method)
    for linear, ratio in zip(linears, before):
        assert ratio > 10 and outlier_ratio(linear) < 0.4 * ratio


@pytest.mark.parametrize("numerics", ["improved", "reference"])
def test_m1_divides_a_norm_by_the_root_of_activation_over_weight(numerics: str) -> None:
    model = make()
    weights = state(model)
    largest = {
        norm: inputs_of(model, f"model.layers.1.{linear}").abs().amax(dim=0)
        for norm, linear in (
            ("input_layernorm", "self_attn.q_proj"),
            ("post_attention_layernorm", "mlp.up_proj"),
        )
    }
    smooth(model, "m1", numerics)
    for norm, linears in (
        ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
    ):
        of_weights = torch.cat([weights[f"model.layers.1.{linear}.weight"] for linear in linears])
        scale = (largest[norm] / of_weights.abs().amax(dim=0)) ** 0.5
        found = model.get_submodule(f"model.layers.1.{norm}").weight
        torch.testing.assert_close(found, weights[f"model.layers.1.{norm}.weight"] / scale, rtol=1e-4, atol=0)
        for linear in linears:
            found = model.get_submodule(f"model.layers.1.{linear}").weight
            expected = weights[f"model.layers.1.{linear}.weight"] * scale
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_query_heads_that_share_a_value_head_are_smoothed_alike(kv_heads: int) -> None:
    """The factors of o_proj's channels, by query head, equal the divisors of v_proj's rows of the same value head."""
    model = make(num_key_value_heads=kv_heads) if kv_heads != 4 else make("llama, a value head for each query head")
    name = "model.layers.0.self_attn"
    weights = state(model)
    # v_proj is smoothed twice: its columns like those of q_proj, which is smoothed once, and its rows.
    smooth(model, "m4")
    attention = model.get_submodule(name)
    by_input = (attention.q_proj.weight / weights[f"{name}.q_proj.weight"]).median(dim=0).values
    divided = weights[f"{name}.v_proj.weight"] * by_input / attention.v_proj.weight
    by_output = divided.median(dim=1).values
    multiplied = (attention.o_proj.weight / weights[f"{name}.o_proj.weight"]).median(dim=0).values
    expected = by_output.view(kv_heads, 1, 8).expand(kv_heads, 4 // kv_heads, 8).flatten()
    torch.testing.assert_close(multiplied, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", ["m1", "m3"])
def test_m3_uses_the_first_sample_and_m1_uses_all(method: str) -> None:
    found = []
    for data in (samples(), samples()[:1]):
        model = make()
        smooth(model, method, data=data)
        found.append(state(model))
    same = all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert same == (method == "m3")


@pytest.mark.parametrize(("numerics", "same"), [("improved", True), ("reference", False)])
def test_padding_counts_only_in_reference_numerics(numerics: str, same: bool) -> None:
    found = []
    for token in (1, 2):
        ids = torch.tensor(token_ids(12))
        mask = torch.ones_like(ids)
        ids[0, 8:], mask[0, 8:] = token, 0
        model = make()
        smooth(model, "m1", numerics, data=[{"input_ids": ids, "attention_mask": mask}])
        found.append(state(model))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0]) == same


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_half_precision_model_is_unchanged_within_its_rounding(method: str, dtype: torch.dtype) -> None:
    model = random_model("llama", num_hidden_layers=2).to(dtype)  # outliers make attention jump at a last bit
    before = logits(model)
    smooth(model, method)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for found, expected in zip(logits(model), before):
        assert ((found - expected).norm() / expected.norm()).item() < torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_norm_that_multiplies_by_one_more_than_its_weight_is_refused(method: str) -> None:
    model = random_model("gemma", num_hidden_layers=2)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight[3] = 40
        model.model.layers[0].post_attention_layernorm.weight[7] = 40
    weights = state(model)
    with pytest.raises(UnsupportedError, match=rf"model\.layers\.0: AntiOutlier {method} would change") as raised:
        smooth(model, method)
    assert "--anti-method none" in raised.value.hint
    assert smoothing_of(model).anti_method == "none"
    assert all(torch.equal(tensor, weights[key]) for key, tensor in state(model).items())


def test_a_norm_that_feeds_more_than_the_known_linears_is_refused() -> None:
    model = make()
    layer = model.model.layers[1]

    class Gated(type(layer.mlp)):
        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values) + values

    layer.mlp.__class__ = Gated
    with pytest.raises(UnsupportedError, match=r"model\.layers\.1: AntiOutlier m1 would change"):
        smooth(model, "m1")


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_known_groups_is_refused(method: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval()
    weights = state(model)
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel"):
        smooth(model, method)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in state(model).items())


def test_a_model_can_be_smoothed_only_once() -> None:
    model = make()
    smooth(model, "m1")
    weights = state(model)
    with pytest.raises(ConflictError, match="has smoothed this model already"):
        smooth(model, "m4")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in state(model).items())
    assert smoothing_of(model).anti_method == "m1"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_input_is_named(value: float) -> None:
    model = make()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[2] = value
    with pytest.raises(InvalidInputError, match=r"the input of model\.layers\.1\.self_attn\.q_proj is not finite"):
        smooth(model, "m1")


@pytest.mark.parametrize("numerics", ["improved", "reference"])
@pytest.mark.parametrize("method", METHODS)
def test_a_dead_channel_in_float16_is_unchanged(method: str, numerics: str) -> None:
    """Its factor would be tiny, and the weights divided by it infinite."""
    model = random_model("llama", num_hidden_layers=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 5] = 0
    model.half()
    weight = model.model.layers[0].input_layernorm.weight[5].item()
    smooth(model, method, numerics)
    assert all(tensor.isfinite().all() for tensor in state(model).values())
    if method in ("m1", "m4"):
        assert model.model.layers[0].input_layernorm.weight[5].item() == weight
