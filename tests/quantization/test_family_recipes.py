"""Tests the recipes of model families on tiny random models: the automatic choice, and which linears they select."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fa3cli import api
from fa3cli.quantization.recipes import choose_recipe, shipped_recipes
from fa3cli.runs.options import RunOptions
from tests.conftest import ROOT
from tests.models.published.test_conversions import DEEPSEEK, QWEN, TYPES
from tests.sample_models import token_ids, write_lines, write_model

FLOAT, STATIC, DYNAMIC = "FLOAT", "W8A8", "W8A8_DYNAMIC"
LINEAR_ATTENTION = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
HYBRID = {**QWEN, **LINEAR_ATTENTION, "shared_expert_intermediate_size": 40}
ERNIE = {"moe_num_experts": 12, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1}
HUNYUAN = {"num_experts": 4, "moe_topk": 2, "num_shared_expert": 1, "moe_intermediate_size": 24}
EXPERTS = {"mlp.experts.*": DYNAMIC, "lm_head": FLOAT}
QWEN_HYBRID = {
    "self_attn.[qkv]_proj": DYNAMIC,
    "self_attn.o_proj": FLOAT,
    "mlp.shared_expert.*": FLOAT,
    "mlp.shared_expert_gate": FLOAT,
    **EXPERTS,
}
LATENT = {
    **dict.fromkeys(("self_attn.q_[ab]_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.o_proj"), STATIC),
    "self_attn.kv_b_proj": FLOAT,
    **dict.fromkeys(("mlp.[gud]*_proj", "mlp.shared_experts.*"), DYNAMIC),
    **EXPERTS,
}


@dataclass(frozen=True)
class Family:
    """A model type, the sizes of a tiny model, and what is expected of each linear, by its name within the layer."""

    recipe: str
    sizes: dict[str, Any]
    expected: dict[str, str]
    anti_method: str = "none"


FAMILIES = {
    "qwen3_moe": Family(
        "qwen3-moe",
        # A dense layer, as decoder_sparse_step or mlp_only_layers allow.
        {**QWEN, "mlp_only_layers": [0]},
        {"self_attn.*": STATIC, "mlp.[gud]*_proj": DYNAMIC, **EXPERTS},
        "m4",
    ),
    "qwen3_next": Family(
        "qwen3-next",
        HYBRID,
        {
            "linear_attn.in_proj_qkvz": DYNAMIC,
            "linear_attn.in_proj_ba": FLOAT,
            "linear_attn.out_proj": FLOAT,
            **QWEN_HYBRID,
        },
    ),
    "qwen3_5_moe_text": Family(
        "qwen3-next",
        HYBRID,
        {**dict.fromkeys(("linear_attn.in_proj_*", "linear_attn.out_proj"), FLOAT), **QWEN_HYBRID},
    ),
    "qwen3_5_text": Family(
        "qwen3.5",
        LINEAR_ATTENTION,
        {"linear_attn.*": FLOAT, "self_attn.*": DYNAMIC, "mlp.*": DYNAMIC, "lm_head": FLOAT},
    ),
    "deepseek_v3": Family("deepseek-v3", DEEPSEEK, LATENT),
    "glm4_moe": Family(
        "glm4-moe",
        TYPES["glm4_moe"],
        {"self_attn.*": DYNAMIC, "mlp.[gud]*_proj": FLOAT, "mlp.shared_experts.*": FLOAT, **EXPERTS},
        "m6",
    ),
    "minimax_m2": Family(
        "minimax-m2",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8},
        {"self_attn.*": DYNAMIC, "block_sparse_moe.experts.*": DYNAMIC, "lm_head": FLOAT},
    ),
    "ernie4_5_moe": Family(
        "ernie4.5-moe",
        ERNIE,
        {"self_attn.*": STATIC, "mlp.[gud]*_proj": DYNAMIC, "mlp.shared_experts.*": DYNAMIC, **EXPERTS},
    ),
    "hunyuan_v1_moe": Family(
        "hunyuan-moe",
        HUNYUAN,
        {"self_attn.*": STATIC, "mlp.gate.wg": FLOAT, "mlp.shared_mlp.*": STATIC, **EXPERTS},
        "m4",
    ),
}
RECIPES = {family.recipe for family in FAMILIES.values()} | {"kimi-k2"}
NO_LINEAR = re.compile(r"mlp\.gate$|block_sparse_moe\.gate$")  # a linear in transformers 4, a module of its own in 5


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("calib") / "calib.jsonl", token_ids(16, 12, 20))


@dataclass(frozen=True)
class Chosen:
    """The recipe, the AntiOutlier method, and the scheme of each linear."""

    recipe: str
    anti_method: str
    schemes: dict[str, str]


@dataclass(frozen=True)
class Model:
    """A tiny model, and what fa3 chooses for it without a named recipe."""

    model_type: str
    folder: Path
    chosen: Chosen


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, calib: Path) -> Model:
    if request.param not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {request.param}")
    folder = tmp_path_factory.mktemp("family") / request.param
    write_model(folder, request.param, **FAMILIES[request.param].sizes)
    return Model(request.param, folder, choices(folder, calib))


def choices(folder: Path, calib: Path, **options: Any) -> Chosen:
    [job] = api.jobs_of(RunOptions(folder, calib=calib, **options))
    schemes = {name: job.schemes[name].value if name in job.schemes else FLOAT for name in job.model.linears()}
    return Chosen(job.recipe, job.settings.anti_method, schemes)


def dead_patterns(recipe: str, linears: list[str]) -> list[str]:
    """The patterns of a recipe that match no linear."""
    settings = shipped_recipes()[recipe].settings
    names = [*settings.get("disable_names", ()), *settings.get("include_names", ())]
    patterns = [name.removeprefix("!") for name in names] + [pattern for pattern, _ in settings.get("schemes", ())]
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in linears)]


def test_the_model_type_chooses_the_recipe_and_its_linears(model: Model) -> None:
    family, chosen = FAMILIES[model.model_type], model.chosen
    assert (chosen.recipe, chosen.anti_method) == (family.recipe, family.anti_method)
    unused = set(family.expected)
    for name, scheme in chosen.schemes.items():
        within = re.sub(r"^model\.layers\.\d+\.", "", name)
        if NO_LINEAR.fullmatch(within):
            assert scheme == FLOAT
            continue
        [pattern] = [pattern for pattern in family.expected if fnmatchcase(within, pattern)]
        assert scheme == family.expected[pattern], name
        unused.discard(pattern)
    assert not unused


def test_no_pattern_is_dead(model: Model) -> None:
    # Only Qwen3-Next has in_proj_qkvz; Qwen3.5 shares its recipe.
    other = ["*.linear_attn.in_proj_qkvz"] if model.model_type == "qwen3_5_moe_text" else []
    assert dead_patterns(FAMILIES[model.model_type].recipe, list(model.chosen.schemes)) == other


def test_the_recipe_by_name_makes_the_same_choices(model: Model, calib: Path) -> None:
    assert choices(model.folder, calib, recipe=model.chosen.recipe) == model.chosen


def test_the_export_is_right(model: Model, tmp_path: Path, calib: Path) -> None:
    """The recipe's AntiOutlier method also fits the model."""
    output = api.quantize(model.folder, tmp_path / "out", calib=calib).output
    assert api.verify(output).ok
    assert api.compare(output, model.folder, calib).kl_divergence < 0.1


def test_kimi_k2_is_treated_as_deepseek_v3(tmp_path: Path, calib: Path) -> None:
    """No transformers has a class for kimi_k2: its folder brings the code of DeepSeek-V3, with the same names."""
    folder = write_model(tmp_path / "model", "deepseek_v3", **DEEPSEEK)
    kimi = choices(folder, calib, recipe="kimi-k2")
    assert kimi.recipe == "kimi-k2" and kimi.schemes == choices(folder, calib).schemes
    assert not dead_patterns("kimi-k2", list(kimi.schemes))
    assert choose_recipe(None, "kimi_k2", list(kimi.schemes)).name == "kimi-k2"
    assert shipped_recipes()["kimi-k2"].settings == shipped_recipes()["deepseek-v3"].settings


@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_moe"])
def test_composite_types_of_qwen3_5_have_the_recipes_of_their_text_parts(model_type: str) -> None:
    recipes = [recipe.name for recipe in shipped_recipes().values() if model_type in recipe.model_types]
    assert recipes == [FAMILIES[f"{model_type}_text"].recipe]


def test_a_recipe_keeps_its_scheme_if_all_its_names_are_dropped() -> None:
    recipe = choose_recipe(None, "qwen3_5_text", ["model.layers.0.mlp.up_proj", "lm_head"])
    assert recipe.name == "qwen3.5" and recipe.settings == {"scheme": "w8a8-dynamic", "disable_names": ()}


def test_a_model_type_has_one_recipe() -> None:
    types = [model_type for recipe in shipped_recipes().values() for model_type in recipe.model_types]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_says_its_source_and_what_was_not_measured(recipe: str) -> None:
    text = (ROOT / "fa3cli" / "data" / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    assert re.search(r"Source: msModelSlim|No file of msModelSlim .* was found\. Basis: ", text)
    assert "Not measured by fa3 on real weights" in text
    assert f"| `{recipe}` |" in (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
