"""Tests that all tensors of a nested value are mapped; containers keep their types, other values are unchanged."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from fa3cli.models.tensor_tree import CPU, moved
from fa3cli.observers.input_range import InputRange

META = torch.device("meta")


@dataclass(frozen=True)
class Seen:
    """Tensors, some of them in containers, and another value."""

    low: Tensor
    rest: dict[str, list[Tensor]]
    tokens: int = 0
    width: int = field(init=False, default=4)


def outline(value: Any) -> Any:
    """The value with each tensor replaced by its shape and device."""
    if isinstance(value, Tensor):
        return value.shape, value.device.type
    if isinstance(value, dict):
        return {key: outline(item) for key, item in value.items()}
    return type(value)(map(outline, value)) if isinstance(value, (list, tuple)) else value


def test_containers_keep_their_kind_and_order() -> None:
    one, two = torch.ones(1), torch.ones(2)
    there = {one: (one.shape, "meta"), two: (two.shape, "meta")}
    assert outline(moved(two, META)) == there[two]
    assert outline(moved([two, (one, None)], META)) == [there[two], (there[one], None)]
    named = {"mask": two, "cos_sin": (one, two), "use_cache": False}
    assert outline(moved(named, META)) == {
        "mask": there[two],
        "cos_sin": (there[one], there[two]),
        "use_cache": False,
    }
    assert (moved((), META), moved({}, META)) == ((), {})


def test_dataclasses_are_copied() -> None:
    seen = Seen(torch.ones(2), {"more": [torch.ones(1)]}, tokens=3)
    found = moved(seen, META)
    assert (type(found), found.tokens, found.width) == (Seen, 3, 4)
    assert found.low.is_meta and found.rest["more"][0].is_meta
    assert not seen.low.is_meta and not seen.rest["more"][0].is_meta
    with pytest.raises(FrozenInstanceError):
        found.tokens = 4


def test_a_moved_observer_keeps_its_samples() -> None:
    seen = InputRange().updated(torch.tensor([[-1.0, 3.0]])).updated(torch.tensor([[-2.0, 1.0]]))
    found = moved(seen, META)
    assert found.tokens == 2 and [sample.is_meta for sample in found.samples] == [True, True]
    assert [bound.item() for bound in moved(seen, CPU).bounds()] == [-1.5, 2.0]


def test_tensors_already_on_the_device_are_not_copied() -> None:
    values = torch.ones(2)
    assert moved([values], CPU)[0] is values


@pytest.mark.parametrize("value", [None, 3, "cpu", Seen, object(), torch.float16])
def test_other_values_are_unchanged(value: Any) -> None:
    assert moved(value, META) is value
