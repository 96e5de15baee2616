"""Settings by name: what the guide recommends for the models it was verified on."""

from __future__ import annotations

from fa3cli.errors import UnsupportedError
from fa3cli.quantization.settings import QuantSettings

__all__ = ["RECIPES", "choose_recipe"]

_DOWN_PROJ_FLOAT = QuantSettings(disable_names=("*.down_proj",))

RECIPES = {
    "none": QuantSettings(),
    "default": _DOWN_PROJ_FLOAT,
    # The guide's Qwen2.5-72B: act_method 1, L0, no AntiOutlier, every down_proj float.
    "qwen2.5-72b": _DOWN_PROJ_FLOAT,
}
_BY_MODEL_TYPE = {"qwen2": "qwen2.5-72b"}


def choose_recipe(name: str | None, model_type: str, linears: list[str]) -> tuple[str, QuantSettings]:
    """Return a recipe's name and settings: the one asked for, else the model type's, else the default.

    A default that names layers the model does not have (a model without any down_proj) drops those names.
    """
    if name is None:
        name = _BY_MODEL_TYPE.get(model_type, "default")
        if not any(linear.endswith(".down_proj") for linear in linears):
            name = "none"
    if name not in RECIPES:
        raise UnsupportedError(f"no recipe named {name!r}", hint=f"recipes: {', '.join(sorted(RECIPES))}")
    return name, RECIPES[name]
