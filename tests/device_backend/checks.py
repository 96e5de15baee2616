"""Checks the promises of the test device, one function per promise; they run in a process that has registered it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.device_backend.testdev import DEVICE, set_limit


def computes_what_the_cpu_does() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 4, 8)
    layer = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()).requires_grad_(False)
    expected = layer(values).softmax(-1) @ values.transpose(1, 2)
    found = layer.to(DEVICE)(values.to(DEVICE)).softmax(-1) @ values.to(DEVICE).transpose(1, 2)
    assert found.device == DEVICE
    assert torch.equal(found.cpu(), expected)


def attention_is_the_cpus() -> None:
    torch.manual_seed(0)
    states = torch.randn(3, 1, 4, 9, 8)
    expected = nn.functional.scaled_dot_product_attention(*states, is_causal=True)
    found = nn.functional.scaled_dot_product_attention(*states.to(DEVICE), is_causal=True)
    assert torch.equal(found.cpu(), expected)


def refuses_tensors_of_the_cpu() -> None:
    values, others = torch.ones(3, device=DEVICE), torch.ones(3)
    calls = [
        lambda: values + others,
        lambda: values * torch.ones(()),  # a CUDA device accepts this call
        lambda: values.add_(others),
        lambda: others.add_(values),
        lambda: values[others > 0],
        lambda: torch.where(values > 0, values, torch.ones(())),
        lambda: torch.cat([values, others]),
        lambda: torch.maximum(values, others),
        lambda: values @ others,
        lambda: nn.Linear(3, 3)(values),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="same device"):
            call()
    with pytest.raises(TypeError, match="numpy"):
        values.numpy()


def has_no_float64() -> None:
    values = torch.ones(3, device=DEVICE)
    assert (values * 0.5).dtype == torch.float32
    with pytest.raises(TypeError, match="float64"):
        values.double()


def takes_numbers() -> None:
    values = torch.arange(4, device=DEVICE)
    assert (2 * values + 1).tolist() == [1, 3, 5, 7]
    assert torch.where(values > 1, values, 9).tolist() == [9, 9, 2, 3]
    assert values.sum().item() == 6
    assert values.float().mean() == 1.5


def copies_between_devices() -> None:
    values = torch.randn(4, 6)[:, ::2].t()
    assert torch.equal(values.to(DEVICE).cpu(), values)
    assert torch.equal(values.to(DEVICE, torch.float16).cpu(), values.half())
    copied = torch.empty(3, 4, dtype=torch.int8, device=DEVICE)
    copied.copy_(values * 10)
    assert torch.equal(copied.cpu(), (values * 10).to(torch.int8))
    assert copied.to("meta").is_meta


def views_share_memory() -> None:
    values = torch.zeros(4, 6, device=DEVICE)
    for view in (
        values[1:3, ::2],
        values.t()[1],
        values.view(2, 12),
        values.unfold(1, 2, 2),
        values.detach(),
    ):
        before = torch.testdev.memory_allocated()
        view += 1
        assert torch.testdev.memory_allocated() == before
    assert values.sum().item() == 6 + 4 + 24 + 24 + 24
    rows = values.unsqueeze(0).expand(3, -1, -1).transpose(1, 2)
    assert rows.data_ptr() == values.data_ptr()


def changes_in_place() -> None:
    values = torch.full((2, 3), -1.0, device=DEVICE)
    values[0] = 16.0
    values[values < 0] = 4.0
    assert values.sqrt_().clamp_(max=3).tolist() == [[3.0] * 3, [2.0] * 3]
    out = torch.empty(0, device=DEVICE)
    assert torch.add(values, values, out=out) is out
    assert torch.equal(out, values * 2)


def resizes() -> None:
    values = torch.arange(4, device=DEVICE)
    values.resize_(6)[4:] = 7
    assert values.tolist() == [0, 1, 2, 3, 7, 7]
    values.set_()
    assert values.numel() == 0
    values.set_(torch.ones(2, dtype=torch.int64, device=DEVICE))
    assert values.tolist() == [1, 1]


def counts_memory() -> None:
    before = torch.testdev.memory_allocated()
    torch.testdev.reset_peak_memory_stats()
    values = torch.zeros(256, device=DEVICE)
    values + 1
    assert torch.testdev.memory_allocated() == before + 1024
    assert torch.testdev.max_memory_allocated() == before + 2048
    del values
    assert torch.testdev.memory_allocated() == before


def runs_out_of_memory() -> None:
    values = torch.zeros(256, device=DEVICE)
    set_limit(torch.testdev.memory_allocated() + 1023)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="tried to allocate 1024 bytes"):
            values + 1
        values += 1
    finally:
        set_limit(0)
    assert (values + 1).sum().item() == 512


def loads_a_module_as_streaming_does() -> None:
    with torch.device("meta"):
        linear = nn.Linear(3, 2)
    weight = torch.randn(2, 3)
    linear.load_state_dict({"weight": weight.to(DEVICE)}, strict=False, assign=True)
    assert isinstance(linear.weight, nn.Parameter)
    assert linear.weight.device == DEVICE
    assert torch.equal(linear.weight.cpu(), weight)
