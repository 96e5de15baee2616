"""Recipes: by name, by model type, from a file, and a default for every other model."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.quantization.fallback import matching
from fa3cli.quantization.recipes import choose_recipe, shipped_recipes
from fa3cli.quantization.settings import QuantSettings, resolve_settings
from tests.conftest import ROOT
from tests.mutated import SEEDS, mutated_toml
from tests.special_files import SPECIAL, put

DECODER = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"]
NO_DOWN_PROJ = ["model.decoder.layers.0.fc1", "model.decoder.layers.0.fc2", "lm_head"]


@pytest.mark.parametrize("name", ["none", "default", "llama3.1-70b", "qwen2.5-72b"])
def test_every_recipe_can_be_requested_and_is_valid(name: str) -> None:
    recipe = choose_recipe(name, "anything", DECODER)
    assert recipe == shipped_recipes()[name] and recipe.name == name
    resolve_settings(recipe.settings, {})


@pytest.mark.parametrize(
    ("model_type", "name", "act_method", "level", "anti_method"),
    [("qwen2", "qwen2.5-72b", 1, "L0", "none"), ("llama", "llama3.1-70b", 3, "L5", "m3")],
)
def test_models_of_the_guide_get_the_recipes_of_the_guide(
    model_type: str, name: str, act_method: int, level: str, anti_method: str
) -> None:
    recipe = choose_recipe(None, model_type, DECODER)
    values = resolve_settings(recipe.settings, {}).values
    assert recipe.name == name
    assert matching(DECODER, values.disable_names) == {"model.layers.0.mlp.down_proj"}
    assert (values.act_method, values.disable_level, values.anti_method) == (act_method, level, anti_method)
    assert values.disable_last_linear and not values.mm_tensor and values.fa and values.fa_amp == 0


@pytest.mark.parametrize("model_type", ["mistral", "no such type"])
def test_any_other_model_leaves_down_proj_float(model_type: str) -> None:
    recipe = choose_recipe(None, model_type, DECODER)
    assert recipe.name == "default"
    assert resolve_settings(recipe.settings, {}).values == QuantSettings(disable_names=("*.down_proj",))


@pytest.mark.parametrize("model_type", ["opt", "qwen2"])
def test_a_model_without_down_proj_gets_no_recipe(model_type: str) -> None:
    recipe = choose_recipe(None, model_type, NO_DOWN_PROJ)
    assert (recipe.name, recipe.settings) == ("none", {})


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match="'qwen9'") as error:
        choose_recipe("qwen9", "qwen2", DECODER)
    assert all(name in error.value.hint for name in shipped_recipes())


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('act_method = 2\ndisable_names = ["lm_head", "*.up_proj"]\nmm_tensor = true\npr = 1.0\n')
    recipe = choose_recipe(str(file), "llama", DECODER)
    assert recipe.name == str(file)
    assert resolve_settings(recipe.settings, {}).values == QuantSettings(
        act_method=2, disable_names=("lm_head", "*.up_proj"), mm_tensor=True
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("act_method = ", "not TOML"),
        ("act_metod = 2", "did you mean act_method?"),
        ("zzz = 2", "settings: w_bit"),
        ("\xff", "not TOML"),
    ],
)
def test_an_invalid_recipe_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInputError) as error:
        choose_recipe(str(file), "llama", DECODER)
    assert str(file) in str(error.value) and words in f"{error.value} {error.value.hint}"


def test_a_missing_recipe_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.toml: cannot be read"):
        choose_recipe(str(tmp_path / "nowhere.toml"), "llama", DECODER)


@pytest.mark.parametrize(
    "text",
    [
        *("model_types = 7", "model_types = [7]", 'model_types = "llama"', "a = " + "[" * 2000 + "]" * 2000),
        *(
            "a.b." * 1000 + "c = 1",
            "w_bit = " + "9" * 5000,
            "w_bit = 0x" + "f" * 5000,
            "pr = nan",
            "pr = -inf",
        ),
        *(
            "fa_amp = 1979-05-27",
            "fa = 1",
            "fa_amp = true",
            "fa_amp = 1.0",
            "w_bit = '8'",
            "act_method = [1]",
        ),
        *(
            "disable_names = '*.down_proj'",
            "disable_names = [7]",
            "include_names = {a = 1}",
            "numerics = 07:32:00",
        ),
        *(
            "disable_level = 'L" + "9" * 5000 + "'",
            "disable_level = 'L٣'",
            "disable_level = 5",
            "fa_amp = -1",
        ),
        *(
            "pr = 'one'",
            "anti_method = false",
            "scheme = 4",
            "[schemes]\n'*.mlp.*' = 'w4a8'",
            "w_sym = 0",
            "act_method = 1\nact_method = 2",
        ),
    ],
)
def test_a_recipe_with_wrong_values_is_bad_input(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInputError) as error:
        choose_recipe(str(file), "llama", DECODER)
    assert str(file) in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "empty"])
def test_a_recipe_that_is_not_a_regular_file_is_bad_input(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "mine.toml")
    with pytest.raises(InvalidInputError, match=r"mine\.toml"):
        choose_recipe(str(tmp_path / "mine.toml"), "llama", DECODER)


def test_mutated_recipes_raise_only_errors_of_fa3(tmp_path: Path) -> None:
    text = (ROOT / "fa3cli" / "data" / "recipes" / "llama3.1-70b.toml").read_text(encoding="utf-8")
    for seed in SEEDS:
        (tmp_path / "mine.toml").write_bytes(mutated_toml(text, seed))
        try:
            recipe = choose_recipe(str(tmp_path / "mine.toml"), "llama", DECODER)
            resolve_settings(recipe.settings, {})
        except Fa3Error as error:
            assert error.exit_code in (3, 5), (seed, error)
