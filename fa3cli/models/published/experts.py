"""Replaces the fused experts of transformers 5 by linears of each expert, as checkpoints publish them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ExpertLinears", "can_be_linears"]


class ExpertLinears(nn.Module):
    """The experts of a layer, each with linears of its own; computes what the fused module `fused` computes.

    `gate`, `up` and `down` are the published names of an expert's linears. The fused parameters `gate_up_proj
    [E, 2 * I, C]` (without a gate `up_proj [E, I, C]`) and `down_proj [E, C, I]` become views, one per linear, and are
    released.
    """

    def __init__(self, fused: Any, gate: str | None, up: str, down: str) -> None:
        super().__init__()
        self._gate, self._up, self._down = gate, up, down
        for expert, down_weight in enumerate(fused.down_proj):
            linears = nn.Module()
            if gate is None:
                linears.add_module(up, _linear(fused.up_proj[expert]))
            else:
                for name, weight in zip((gate, up), fused.gate_up_proj[expert].chunk(2)):
                    linears.add_module(name, _linear(weight))
            linears.add_module(down, _linear(down_weight))
            self.add_module(str(expert), linears)
        for name in list(fused._parameters):
            del fused._parameters[name]
        # In a tuple: as a submodule, it would add its name to those of its buffers and norms.
        self._fused = (fused,)

    def forward(self, states: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts.

        `states [T, C]`, `experts [T, K]` int64, `weights [T, K] -> [T, C]`; T tokens, K experts per token.
        """
        output = torch.zeros_like(states)
        for expert in torch.unique(experts).tolist():
            if str(expert) not in self._modules:  # some models send unused slots to an expert that does not exist
                continue
            token, slot = torch.where(experts == expert)
            computed = self._expert(self.get_submodule(str(expert)), states[token])
            # Experts in ascending order, as in transformers' own loop: the rounding of a sum depends on the order.
            output.index_add_(0, token, (computed * weights[token, slot, None]).to(output.dtype))
        return output

    def _expert(self, linears: Any, states: Tensor) -> Tensor:
        [fused] = self._fused
        up = linears.get_submodule(self._up)(states)
        if self._gate is None:
            inner = fused.act_fn(up)
        else:
            inner = fused._apply_gate(torch.cat([linears.get_submodule(self._gate)(states), up], dim=-1))
        output: Tensor = linears.get_submodule(self._down)(inner)
        return output


def _linear(weight: Tensor) -> nn.Linear:
    rows, columns = weight.shape
    # On the meta device: the linear's own weight would need memory, only to be replaced by the view.
    linear = nn.Linear(columns, rows, bias=False, device="meta", dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


def can_be_linears(module: nn.Module) -> bool:
    """Tell whether a module is fused experts in the layout that `ExpertLinears` computes."""
    return (
        hasattr(module, "has_gate")
        and isinstance(getattr(module, "down_proj", None), nn.Parameter)
        and getattr(module, "is_concatenated", False)
        and not any(getattr(module, name, False) for name in ("is_transposed", "has_bias", "has_post_expert_norm"))
    )
