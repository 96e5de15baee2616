"""Gives simulated modules their values."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["load"]


def load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace a module's meta buffers by tensors, in the dtypes of the buffers; further tensors are not used."""
    held = module.state_dict()
    cast = {name: tensor.to(held[name].dtype) for name, tensor in tensors.items() if name in held}
    module.load_state_dict(cast, assign=True)
