from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fa3cli.models.memory_model import MemoryModel
from fa3cli.planning import rule_time
from fa3cli.planning.rule_time import rule_seconds
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.settings import QuantSettings
from tests.sample_models import random_model

# q, k and v of 8, 4 and 4 heads of 16, gate and up: rows that few powers of 2 divide.
SIZES = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 8, "head_dim": 16}
GROUPS = [((128 + 2 * 64), 96), (2 * 160, 96)]
LAYER = "model.layers.0"


class Clock:
    """A clock that a search advances by 1 s per row, and by 0.01 s per row and token."""

    def __init__(self) -> None:
        self.now, self.seen = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def rule(self, group: GroupData) -> Tensor:
        (rows,) = [sum(len(weight) for weight in group.weights)]
        self.seen.append((rows, [len(sample) for sample in group.inputs.samples], group.weights[0].dtype))
        self.now += rows * (1 + 0.01 * sum(map(len, group.inputs.samples)))
        return torch.ones(group.weights[0].shape[1])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rule_time, "time", clock)
    monkeypatch.setattr(rule_time, "_WEIGHTS", 3000)
    for name in ("m1", "m2", "m3", "m6"):
        groups = METHODS["m1"].groups
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], rule=clock.rule, groups=groups))
    return clock


def found(method: str, tokens: list[int], **settings: Any) -> float:
    model = MemoryModel(random_model("llama", num_key_value_heads=4, **SIZES).bfloat16())
    return rule_seconds(model, LAYER, QuantSettings(anti_method=method, **settings), tokens)


@pytest.mark.parametrize(
    ("method", "tokens", "counted"),
    [
        ("m1", [50, 60], 1),  # uses no complete sample: a single token replaces the extremes
        ("m3", [50, 60], 50),
        ("m2", [50, 60], 50),
        ("m6", [50, 60], 110),
        ("m3", [4000, 60], 4000),
        ("m6", [4000, 6000], 10000),
    ],
)
def test_the_time_is_extrapolated_from_a_part(clock: Clock, method: str, tokens: list[int], counted: int) -> None:
    rows = sum(rows for rows, _ in GROUPS)
    assert found(method, tokens) == pytest.approx(rows * (1 + 0.01 * counted))
    assert max(rows for rows, _, _ in clock.seen) <= 2 * 3000 // 96
    assert max(sum(samples) for _, samples, _ in clock.seen) <= 128


@pytest.mark.parametrize(("numerics", "dtype"), [("improved", torch.float32), ("reference", torch.bfloat16)])
def test_timing_uses_the_dtype_of_the_search(clock: Clock, numerics: str, dtype: torch.dtype) -> None:
    found("m3", [9], numerics=numerics)
    assert {used for _, _, used in clock.seen} == {dtype}


def test_method_none_takes_no_time(tmp_path: Path) -> None:
    assert found("none", [9]) == 0
