"""The patched side of the proof: every quantizer multiplies what it gets, and what it gets is remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.patching.matrix.factors import factors, fingerprint
from tests.patching.matrix.forwards import LENGTHS

__all__ = ["Watch"]


class Watch:
    """Makes the quantizers that a model has now multiply by the powers of two of role and head, from `start` on.

    `states` are the fingerprints of what they got, `shapes` its shapes, `calls` how often each module's quantizer
    got each role, and `forwards` how often the module ran.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = {name: module for name, module in model.named_modules() if hasattr(module, "fa_quantizer")}
        self.states: Counter = Counter()
        self.calls: Counter = Counter()
        self.forwards: Counter = Counter()
        self.shapes: set[tuple[int, ...]] = set()

    def start(self) -> None:
        for name, module in self.modules.items():
            module.fa_quantizer.transform = self._transform(name)
            module.register_forward_hook(lambda *_, name=name: self.forwards.update([name]))

    def clear(self) -> None:
        for counts in (self.states, self.calls, self.forwards, self.shapes):
            counts.clear()

    def not_once(self) -> str | None:
        """How often states were seen, where it isn't once a forward. Cross-attention is idle in a decoder."""
        wrong = [
            f"{name}: {role} {self.calls[name, role]} times in {ran} forwards"
            for name, ran in self.forwards.items()
            for role in "qkv"
            if self.calls[name, role] != ran
        ]
        return ", ".join(wrong) if wrong else None if self.calls else "no quantizer was called"

    def not_bhsd(self) -> str | None:
        """Shapes whose heads or sizes are numbers that only positions have."""
        wrong = [shape for shape in self.shapes if len(shape) != 4 or {shape[1], shape[3]} & set(LENGTHS)]
        return str(sorted(wrong)) if wrong else None

    def _transform(self, name: str) -> Callable[[Tensor, str], Tensor]:
        def scale(states: Tensor, role: str) -> Tensor:
            self.states[fingerprint(role, states)] += 1
            self.calls[name, role] += 1
            self.shapes.add(tuple(states.shape))
            return states * factors(role, torch.arange(states.shape[1])).view(-1, 1, 1)

        return scale
