"""Defines QuantConfig and AntiOutlierConfig, with the guide's parameters under the guide's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fa3cli.errors import UnsupportedError
from fa3cli.quantization.schemes import DYNAMIC, STATIC

__all__ = ["AntiOutlierConfig", "QuantConfig"]

# The guide's tool has these parameters for other kinds of quantization; only the tool's defaults are accepted.
_UNUSED_DEFAULTS = {
    "w_method": "MinMax",
    "fraction": 0.01,
    "nonuniform": False,
    "co_sparse": False,
    "is_lowbit": False,
    "do_smooth": False,
    "use_sigma": False,
    "sigma_factor": 3.0,
    "use_kvcache_quant": False,
    "open_outlier": True,
    "is_dynamic": False,  # of AntiOutlierConfig: QuantConfig supports it
    "group_size": 64,
    "percdamp": 0.01,
    "pdmix": False,
    "disable_anti_names": None,
    "flex_config": None,
}


class QuantConfig:
    """Settings for the quantization of linears and, after `fa_quant`, of q, k and v.

    `numerics` and `fa_score` exist in fa3 only: see `fa3 quantize --help`. Raises UnsupportedError if a parameter of
    the guide's tool asks for another kind of quantization.
    """

    def __init__(
        self,
        w_bit: int = 8,
        a_bit: int = 8,
        act_method: int = 1,
        disable_names: Sequence[str] | None = None,
        pr: float = 1.0,
        mm_tensor: bool = False,
        dev_type: str = "cpu",
        dev_id: int | None = None,
        w_sym: bool = True,
        disable_last_linear: bool = True,
        *,
        is_dynamic: bool = False,
        numerics: str = "improved",
        fa_score: str = "reference",
        **others: Any,
    ) -> None:
        _require_defaults("QuantConfig", others)
        self.dev_type, self.dev_id = dev_type, dev_id
        self.options: dict[str, Any] = {
            "w_bit": w_bit,
            "a_bit": a_bit,
            "act_method": act_method,
            "disable_names": disable_names if isinstance(disable_names, str) else tuple(disable_names or ()),
            "pr": pr,
            "w_sym": w_sym,
            "mm_tensor": mm_tensor,
            "disable_last_linear": disable_last_linear,
            "scheme": (DYNAMIC if is_dynamic else STATIC).name,
            "numerics": numerics,
            "fa_score": fa_score,
            "fa": False,
        }

    def fa_quant(self, fa_amp: int = 0) -> QuantConfig:
        """Quantize q, k and v too, except in the `fa_amp` layers with the lowest scores; return this config."""
        self.options |= {"fa": True, "fa_amp": fa_amp}
        return self


class AntiOutlierConfig:
    """Settings of AntiOutlier; raises UnsupportedError as QuantConfig does."""

    def __init__(
        self,
        w_bit: int = 8,
        a_bit: int = 8,
        anti_method: str = "m2",
        dev_type: str = "cpu",
        dev_id: int | None = None,
        w_sym: bool = True,
        *,
        numerics: str = "improved",
        **others: Any,
    ) -> None:
        _require_defaults("AntiOutlierConfig", others)
        self.dev_type, self.dev_id = dev_type, dev_id
        self.options: dict[str, Any] = {
            "w_bit": w_bit,
            "a_bit": a_bit,
            "anti_method": anti_method,
            "w_sym": w_sym,
            "numerics": numerics,
            "fa": False,
        }


def _require_defaults(owner: str, others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name not in _UNUSED_DEFAULTS:
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")
        if value != _UNUSED_DEFAULTS[name]:
            raise UnsupportedError(
                f"{name}={value!r} is not supported by this version of fa3",
                hint=f"omit it, or set {_UNUSED_DEFAULTS[name]!r}: fa3 supports W8A8 and FA3 only",
            )
