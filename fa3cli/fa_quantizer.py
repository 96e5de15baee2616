"""What a patched modeling file imports: the place where q, k and v can be seen and changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["FAQuantizer", "quantizer_of"]


class FAQuantizer:
    """Hands the q, k and v states of one attention module to whoever listens, else passes them through.

    It is not an `nn.Module` and holds no tensor, so a model's state_dict, its loading on the meta
    device and its results stay as they are. `config` and `logger` are the guide's arguments; `layout` is how the
    attention lays out its states, which diffusion transformers differ in.
    """

    def __init__(
        self, config: Any = None, logger: Any = None, layout: Literal["BHSD", "BSHD"] = "BHSD"
    ) -> None:
        if layout not in ("BHSD", "BSHD"):
            raise ValueError(f"layout is {layout!r}, expected 'BHSD' or 'BSHD'")
        self.layout = layout
        self.transform: Callable[[Tensor, str], Tensor] | None = None

    def quant(
        self, states: Tensor, qkv: Literal["q", "k", "v"], layout: Literal["BHSD", "BSHD"] | None = None
    ) -> Tensor:
        """Return states as attention shall see them: unchanged, unless a `transform` is attached.

        They are `[B, H, S, D]`, or `[B, S, H, D]` where `layout`, the quantizer's own if none is given, says so; a
        transform gets `[B, H, S, D]` either way. ValueError if there is a transform and they haven't four axes: then
        the call stands in the wrong place.
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
