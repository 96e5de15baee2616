"""Tests that the guide's parameters become fa3's settings, and that all others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from fa3cli import AntiOutlierConfig, QuantConfig
from fa3cli.errors import UnsupportedError
from fa3cli.quantization.settings import QuantSettings, resolve_settings


def settings(config: QuantConfig | AntiOutlierConfig) -> QuantSettings:
    return resolve_settings({}, config.options).values


def test_a_config_without_parameters_has_the_defaults_but_no_fa3() -> None:
    assert settings(QuantConfig()) == QuantSettings(fa=False)


def test_parameters_of_the_guide_become_settings() -> None:
    config = QuantConfig(
        a_bit=8,
        w_bit=8,
        disable_names=["model.layers.0.mlp.down_proj"],
        dev_type="npu",
        dev_id=3,
        act_method=3,
        pr=1.0,
        w_sym=True,
        mm_tensor=True,
        disable_last_linear=False,
    )
    assert settings(config) == QuantSettings(
        fa=False,
        disable_names=("model.layers.0.mlp.down_proj",),
        act_method=3,
        mm_tensor=True,
        disable_last_linear=False,
    )
    assert (config.dev_type, config.dev_id) == ("npu", 3)


def test_fa_quant_turns_fa3_on_and_returns_the_same_config() -> None:
    config = QuantConfig(act_method=2)
    assert config.fa_quant(fa_amp=5) is config
    assert settings(config) == QuantSettings(act_method=2, fa=True, fa_amp=5)
    assert settings(config.fa_quant()) == QuantSettings(act_method=2, fa=True, fa_amp=0)


def test_later_changes_of_a_list_do_not_affect_the_config() -> None:
    names = ["lm_head"]
    config = QuantConfig(disable_names=names)
    names.append("model.layers.0.mlp.down_proj")
    assert settings(config).disable_names == ("lm_head",)


def test_parameters_of_fa3_become_settings() -> None:
    found = settings(QuantConfig(numerics="reference", fa_score="error"))
    assert (found.numerics, found.fa_score, found.reference) == ("reference", "error", True)
    assert settings(AntiOutlierConfig(numerics="reference")).reference
    assert not settings(AntiOutlierConfig()).reference


def test_anti_outlier_parameters_of_the_guide_become_settings() -> None:
    config = AntiOutlierConfig(anti_method="m3", dev_type="npu", dev_id=0)
    assert settings(config) == QuantSettings(anti_method="m3", fa=False)
    assert (config.dev_type, config.dev_id) == ("npu", 0)
    assert settings(AntiOutlierConfig()).anti_method == "m2"


@pytest.mark.parametrize("config", [QuantConfig, AntiOutlierConfig])
@pytest.mark.parametrize(
    "parameter",
    [{"w_bit": 4}, {"a_bit": 16}, {"w_sym": False}, {"pdmix": True}, {"flex_config": {}}],
    ids=str,
)
def test_another_kind_of_quantization_is_refused(config: Any, parameter: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=next(iter(parameter))) as raised:
        settings(config(**parameter))
    assert raised.value.exit_code == 3
    assert raised.value.hint


@pytest.mark.parametrize(
    "parameter",
    [
        {"pr": 0.5},
        {"act_method": 4},
        {"use_kvcache_quant": True},
        {"co_sparse": True},
        {"fa_score": "best"},
    ],
    ids=str,
)
def test_unsupported_values_of_quant_config_are_refused(parameter: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=next(iter(parameter))) as raised:
        settings(QuantConfig(**parameter))
    assert raised.value.exit_code == 3


def test_is_dynamic_chooses_the_dynamic_scheme() -> None:
    assert settings(QuantConfig(is_dynamic=True)).scheme == "w8a8-dynamic"
    with pytest.raises(UnsupportedError, match="is_dynamic"):
        AntiOutlierConfig(is_dynamic=True)


def test_an_unknown_anti_method_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="anti_method=m7"):
        settings(AntiOutlierConfig(anti_method="m7"))


@pytest.mark.parametrize("config", [QuantConfig, AntiOutlierConfig])
def test_defaults_of_the_guides_tool_may_be_given_explicitly(config: Any) -> None:
    spelled = config(w_method="MinMax", is_dynamic=False, group_size=64, flex_config=None, sigma_factor=3)
    assert settings(spelled) == settings(config())


@pytest.mark.parametrize("config", [QuantConfig, AntiOutlierConfig])
def test_an_unknown_parameter_is_a_type_error(config: Any) -> None:
    with pytest.raises(TypeError, match=rf"{config.__name__}\(\) got an unexpected keyword .*'w_bits'"):
        config(w_bits=8)
