"""Tests the recording of a module's first call, and its repetition after a change."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.samples.recorded_call import RecordedCall


class Scaled(nn.Module):
    """Multiplies, and may return further outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.calls = 0

    def forward(self, values: Tensor, *, shift: float = 0.0, more: bool = False) -> Any:
        self.calls += 1
        output = values * self.factor + shift
        return (output, None) if more else output


@pytest.fixture
def module() -> Scaled:
    return Scaled()


def test_the_first_call_is_kept_with_all_its_arguments(module: Scaled) -> None:
    with RecordedCall(module) as call:
        module(torch.ones(2), shift=0.5)
        module(torch.full((2,), 7.0))
    assert call.output.tolist() == [2.5, 2.5]
    assert call.repeat().tolist() == [2.5, 2.5] and module.calls == 3
    module.factor.data.fill_(10.0)
    assert call.repeat().tolist() == [10.5, 10.5]
    assert call.output.tolist() == [2.5, 2.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_are_float64_and_repeat_records_no_gradient(module: Scaled, dtype: torch.dtype) -> None:
    module.to(dtype)
    with RecordedCall(module) as call:
        module(torch.ones(2, dtype=dtype))
    assert call.output.dtype == call.repeat().dtype == torch.float64
    assert not call.repeat().requires_grad


def test_the_first_of_several_outputs_is_kept(module: Scaled) -> None:
    with RecordedCall(module) as call:
        module(torch.ones(1), more=True)
    assert call.output.tolist() == call.repeat().tolist() == [2.0]


def test_all_float_outputs_are_kept_unchanged(module: Scaled) -> None:
    module.to(torch.float16)
    with RecordedCall(module) as call:
        returned, _ = module(torch.ones(1, dtype=torch.float16), more=True)
    assert len(call.outputs) == 1 and call.outputs[0] is returned
    (again,) = call.repeat_outputs(lambda tensor: tensor * 2)
    assert again.dtype == torch.float16 and again.tolist() == [4.0] and not again.requires_grad


def test_calls_outside_the_block_are_not_recorded(module: Scaled) -> None:
    module(torch.zeros(1))
    with RecordedCall(module) as call:
        assert len(module._forward_hooks) == 1
        module(torch.ones(1))
    module(torch.full((1,), 3.0))
    assert call.output.tolist() == [2.0] and not module._forward_hooks


def test_the_hook_is_removed_after_an_error(module: Scaled) -> None:
    with pytest.raises(ArithmeticError), RecordedCall(module):
        raise ArithmeticError
    assert not module._forward_hooks


def test_a_call_that_is_suspended_when_the_block_begins_is_recorded(module: Scaled) -> None:
    """Like the forwards that are suspended before a layer."""
    call = RecordedCall(module)
    handle = module.register_forward_pre_hook(lambda *_: call.__enter__() and None)
    module(torch.ones(1), shift=1.0)
    handle.remove()
    call.__exit__(None, None, None)
    assert call.output.tolist() == call.repeat().tolist() == [3.0]


class Leaving(nn.Module):
    """Appends its values to a nested list, and counts the entries that were there before."""

    def forward(self, values: Tensor, places: Any) -> Tensor:
        places["in"]["one"].append(values)
        return values * len(places["in"]["one"])


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_containers_of_any_class_are_not_changed_and_tensors_are_shared(kind: type) -> None:
    values = torch.ones(1)
    places, module = kind({"in": kind({"one": [values]})}), Leaving()
    with RecordedCall(module) as call:
        assert module(values, places=places).tolist() == [2.0]
    assert call.repeat().tolist() == [3.0] and call.repeat().tolist() == [3.0]
    assert len(places["in"]["one"]) == 2
    assert all(place is values for place in places["in"]["one"])


def test_repeat_can_change_the_tensors(module: Scaled) -> None:
    with RecordedCall(module) as call:
        module(torch.ones(2), shift=1.0)
    assert call.repeat(lambda tensor: tensor * 3).tolist() == [7.0, 7.0]
    first, shift = call.arguments
    assert first.tolist() == [1.0, 1.0] and shift == 1.0
