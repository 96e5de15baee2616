"""Recipes: by name, by model type, and a default for every other model."""

from __future__ import annotations

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.quantization.recipes import RECIPES, choose_recipe
from fa3cli.quantization.settings import QuantSettings, matching, resolve_settings

DECODER = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"]
NO_DOWN_PROJ = ["model.decoder.layers.0.fc1", "model.decoder.layers.0.fc2", "lm_head"]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_can_be_asked_for_and_run(name: str) -> None:
    found, settings = choose_recipe(name, "anything", DECODER)
    assert found == name and settings == RECIPES[name]
    assert resolve_settings(settings, {}) == settings


def test_qwen2_has_the_guides() -> None:
    name, settings = choose_recipe(None, "qwen2", DECODER)
    assert name == "qwen2.5-72b"
    assert matching(DECODER, settings.disable_names) == {"model.layers.0.mlp.down_proj"}
    assert (settings.act_method, settings.disable_level, settings.anti_method) == (1, "L0", "none")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "no such type"])
def test_any_other_model_leaves_down_proj_float(model_type: str) -> None:
    name, settings = choose_recipe(None, model_type, DECODER)
    assert name == "default"
    assert settings == QuantSettings(disable_names=("*.down_proj",))


@pytest.mark.parametrize("model_type", ["opt", "qwen2"])
def test_a_model_without_down_proj_gets_no_names_it_lacks(model_type: str) -> None:
    assert choose_recipe(None, model_type, NO_DOWN_PROJ) == ("none", QuantSettings())


def test_no_such_recipe_names_those_there_are() -> None:
    with pytest.raises(UnsupportedError, match="'qwen9'") as error:
        choose_recipe("qwen9", "qwen2", DECODER)
    assert all(name in error.value.hint for name in RECIPES)
