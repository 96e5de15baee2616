"""Defines FAQuantizer, through which a patched modeling file passes q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["FAQuantizer", "quantizer_of"]


class FAQuantizer:
    """Passes the q, k and v states of one attention module to a `transform`; without one, returns them unchanged.

    It is not an `nn.Module` and holds no tensor, so it does not change a model's state_dict, loading on the meta device
    or results. `config` and `logger` are the guide's arguments, and are not used. `layout` is the order of the axes of
    the states, which differs between diffusion transformers.
    """

    def __init__(self, config: Any = None, logger: Any = None, layout: Literal["BHSD", "BSHD"] = "BHSD") -> None:
        if layout not in ("BHSD", "BSHD"):
            raise ValueError(f"layout is {layout!r}, expected 'BHSD' or 'BSHD'")
        self.layout = layout
        self.transform: Callable[[Tensor, str], Tensor] | None = None

    def quant(
        self, states: Tensor, qkv: Literal["q", "k", "v"], layout: Literal["BHSD", "BSHD"] | None = None
    ) -> Tensor:
        """Return the states for attention: unchanged, unless there is a `transform`.

        The layout of `states` is `layout`, by default the quantizer's own: `[B, H, S, D]` (BHSD) or `[B, S, H, D]`
        (BSHD). A transform always gets `[B, H, S, D]`. With a transform, raises ValueError if the states do
        not have four axes: then the call is in the wrong place of the modeling file.
        """
        if self.transform is None:
            return states
        if states.dim() != 4:
            raise ValueError(f"{qkv} is {tuple(states.shape)} here, expected [batch, heads, positions, size]")
        if (layout or self.layout) == "BSHD":
            return self.transform(states.transpose(1, 2), qkv).transpose(1, 2)
        return self.transform(states, qkv)


def quantizer_of(attention: object) -> FAQuantizer:
    """Return the quantizer of a patched attention module; raises TypeError for any other module."""
    found = getattr(attention, "fa_quantizer", None)
    if not isinstance(found, FAQuantizer):
        raise TypeError(f"{type(attention).__name__} has no FAQuantizer")
    return found
