"""The native side of the proof: multiply what attention itself is given, wherever a model computes it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from copy import copy
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.patching.matrix.factors import factors, fingerprint, multiply, own_heads
from tests.patching.matrix.forwards import BATCH, LENGTHS

__all__ = ["Cores"]

# Where the first of the two operands stands.
_PRODUCTS = {"matmul": 0, "__matmul__": 0, "bmm": 0, "baddbmm": 1}
_OPERANDS = ("batch1", "batch2", "other", "mat2")
Line = tuple[str, int]


class Cores(TorchFunctionMode):
    """Finds every attention core of a model that runs below it: sdpa, or a product, a softmax and a product.

    Products are told by the lengths only positions have; a line of the model's code computes a core's `scores` or
    `context` if a softmax over keys stood between the two. What was found, `scaling()` multiplies by the powers of
    two of role and head. `repeated_early`: the model repeats its heads before it caches them, so that each repeated
    head is one of its own.

    `seen` are the fingerprints of what was multiplied, each head once. `softmaxes` and `cores` have to be equal,
    else a core wasn't understood. `modules` hold them.
    """

    def __init__(self, repeated_early: bool = False) -> None:
        super().__init__()
        self.scales, self.repeated_early = False, repeated_early
        self.lines: dict[Line, str] = {}
        self.seen: Counter = Counter()
        self.softmaxes = self.cores = 0
        self.modules: set[str] = set()
        self._scores: Line | None = None  # the last product like scores, and the one a softmax was taken of
        self._weights: Line | None = None
        self._inside = False

    def scaling(self) -> Cores:
        """The same, to multiply the operands of the cores that were found."""
        other = copy(self)
        other.scales, other.seen = True, Counter()
        return other

    def __enter__(self) -> Cores:
        self._native_sdpa = _replace_sdpa(self._interface_sdpa)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _replace_sdpa(self._native_sdpa)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name, frame = dict(kwargs or {}), getattr(function, "__name__", ""), sys._getframe(1)
        if self._inside:
            return function(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            states = [*args, *(kwargs.pop(key) for key in ("query", "key", "value") if key in kwargs)]
            args = [*self._states(*states[:3], frame), *states[3:]]
        elif name in _PRODUCTS:
            at = _PRODUCTS[name]
            args = [*args, *(kwargs.pop(key) for key in _OPERANDS if key in kwargs)]
            args[at : at + 2] = self._product(*args[at : at + 2], frame)
        result = function(*args, **kwargs)
        if name == "softmax" and _is_over_keys(result, *args[1:2], **kwargs):
            self._found_softmax(frame)
            self._scores, self._weights = None, self._scores or self._weights
        elif name == "logsumexp" and self._scores:  # instead of a softmax, or before one
            self._found_owner(frame)
            self._weights = self._scores
        return result

    def _interface_sdpa(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs):
        """What transformers (from 4.48 on) calls for sdpa attention; its own may move heads to other axes."""
        states = self._states(query, key, value, sys._getframe(1))
        self._inside = True
        try:
            return self._native_sdpa(module, *states, *args, **kwargs)
        finally:
            self._inside = False

    def _states(self, query: Tensor, key: Tensor, value: Tensor, frame: FrameType) -> list[Tensor]:
        states, line = [query, key, value], (frame.f_code.co_filename, frame.f_lineno)
        if key.shape[1] in LENGTHS:
            self.lines[line] = "apart"  # at each position, over something else: the results of earlier layers
        if self.lines.get(line) == "apart":
            return states
        self._found_softmax(frame)
        self._found_core()
        return [self._scaled(state, role) for state, role in zip(states, "qkv")]

    def _product(self, left: Tensor, right: Tensor, frame: FrameType) -> tuple[Tensor, Tensor]:
        line = frame.f_code.co_filename, frame.f_lineno
        if self.scales:
            kind = self.lines.get(line)
            if kind == "scores":
                return self._scaled(left, "q"), self._scaled(right.mT, "k").mT
            return left, self._scaled(right, "v") if kind == "context" else right
        # Scores are (.., S, D) x (.., D, T), the context (.., S, T) x (.., T, D): T is one of LENGTHS, D never is.
        if left.dim() == right.dim() >= 3:
            size, length = left.shape[-1], right.shape[-1]
            if length in LENGTHS and size not in (1, *LENGTHS):
                self._scores = line
            elif size in LENGTHS and length not in LENGTHS and self._weights:
                self.lines |= {self._weights: "scores", line: "context"}
                self._found_core()
        return left, right

    def _scaled(self, states: Tensor, role: str) -> Tensor:
        if not self.scales:
            return states
        heads = states if states.dim() == 4 else states.unflatten(0, (BATCH, -1))
        every = torch.arange(heads.shape[1])
        own = every if role == "q" or self.repeated_early else own_heads(heads)
        first = [own.tolist().index(head) for head in range(int(own.max()) + 1)]
        self.seen[fingerprint(role, heads[:, first])] += 1
        return multiply(heads, factors(role, own).view(-1, 1, 1)).view(states.shape)

    def _found_core(self) -> None:
        self.cores += 1
        self._scores = self._weights = None

    def _found_softmax(self, frame: FrameType) -> None:
        self.softmaxes += 1
        self._found_owner(frame)

    def _found_owner(self, frame: FrameType | None) -> None:
        while frame is not None and not _is_of_a_model(frame.f_locals.get("self")):
            frame = frame.f_back
        if frame is not None:
            self.modules.add(type(frame.f_locals["self"]).__module__)


def _is_over_keys(weights: Tensor, dim: int, **_: Any) -> bool:
    return weights.dim() >= 3 and weights.shape[-1] in LENGTHS and dim in (-1, weights.dim() - 1)


def _is_of_a_model(owner: object) -> bool:
    return isinstance(owner, nn.Module) and not type(owner).__module__.startswith("torch.")


def _replace_sdpa(function: Callable | None) -> Callable | None:
    """Let transformers call this function for sdpa attention, in every file; return the one before, if it has one."""
    import transformers.modeling_utils

    functions = getattr(transformers.modeling_utils, "ALL_ATTENTION_FUNCTIONS", None)
    if functions is None:
        return None
    before = functions["sdpa"]
    if hasattr(functions, "register"):
        functions.register("sdpa", function)
    else:
        functions["sdpa"] = function
    return before
