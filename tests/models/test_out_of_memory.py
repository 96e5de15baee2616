"""Tests that calls without enough memory are repeated, then run on the CPU. Here the device is the CPU with a number.

tests/runs/test_other_device.py has a device that counts its memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.errors import MissingCapabilityError
from fa3cli.models import out_of_memory
from fa3cli.models.out_of_memory import CpuFallback, is_out_of_memory, memory_errors, with_cpu_retry
from fa3cli.models.tensor_tree import CPU
from fa3cli.observers.input_range import InputRange

DEVICE = torch.device("cpu", 0)  # not equal to CPU, and its tensors work
NPU = (
    "NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total capacity; 59.36 GiB already allocated; "
    "59.36 GiB current active; 1.5 MiB free; 59.50 GiB reserved in total by PyTorch)"
)


class Layer(nn.Module):
    """Runs out of memory in its first `failures` calls, after its linear; records where it was moved."""

    def __init__(self, failures: int = 0, error: BaseException | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2).requires_grad_(False)
        self.failures, self.error = failures, error or RuntimeError(NPU)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.moves: list[torch.device] = []

    def forward(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append((arguments, named))
        output = self.linear(arguments[0])
        if len(self.calls) <= self.failures:
            raise self.error
        return (output, None)

    def to(self, device: torch.device) -> Layer:
        self.moves.append(device)
        return self


@dataclass
class Log:
    """Records calls of torch: devices that tensors are moved to, and freed memory."""

    moves: list[torch.device] = field(default_factory=list)
    freed: list[torch.device] = field(default_factory=list)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    def moved(value: Any, device: torch.device) -> Any:
        log.moves.append(device)
        return value

    monkeypatch.setattr(out_of_memory, "moved", moved)
    monkeypatch.setattr(out_of_memory, "free_memory", log.freed.append)
    return log


def test_a_call_with_enough_memory_runs_once_on_the_device(log: Log) -> None:
    layers, values = [Layer(), Layer()], torch.ones(1, 2)
    with CpuFallback(layers, DEVICE):
        output, rest = layers[0](values, mask=None)
    assert torch.equal(output, layers[0].linear(values)) and rest is None
    assert layers[0].calls == [((values,), {"mask": None})]
    assert log == Log(moves=[DEVICE] * 3)  # positional and named arguments, and the output
    assert layers[0].moves == []


def test_a_call_that_fails_once_is_repeated_on_the_device(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    layer, again = Layer(failures=1), []
    with CpuFallback([layer, Layer()], DEVICE) as fallback:
        fallback.discard_sample = lambda: again.append(len(layer.calls))
        layer(torch.ones(1, 2))
    assert again == [1] and log.freed == [DEVICE]
    assert len(layer.calls) == 2 and set(log.moves) == {DEVICE}
    assert layer.moves == [] and not caplog.records


def test_a_call_that_fails_twice_runs_on_the_cpu_and_keeps_its_states_there(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    layers, again = [Layer(failures=2), Layer(), Layer()], []
    with CpuFallback(layers, DEVICE) as fallback:
        fallback.discard_sample = lambda: again.append(len(layers[0].calls))
        output, _ = layers[0](torch.ones(1, 2))
        assert torch.equal(output, layers[0].linear(torch.ones(1, 2)))
        assert again == [1, 2] and log.freed == [DEVICE] * 2
        assert log.moves == [DEVICE] * 4 + [CPU] * 3
        assert layers[0].moves == [CPU, DEVICE]
        log.moves.clear()
        layers[1](output)
        assert log.moves == [DEVICE, DEVICE, CPU]
        log.moves.clear()
        layers[2](output)  # the model's own code uses the last output, on the device
        assert log.moves == [DEVICE] * 3
        layers[1].failures = 3
        layers[1](output)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # once per run


def test_the_layer_returns_to_the_device_if_the_cpu_also_fails(log: Log) -> None:
    layer = Layer(failures=3)
    with CpuFallback([layer], DEVICE), pytest.raises(RuntimeError, match="NPU out of memory"):
        layer(torch.ones(1, 2))
    assert layer.moves == [CPU, DEVICE] and len(layer.calls) == 3


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("out of memory")])
def test_other_errors_are_not_tried_again(log: Log, error: Exception) -> None:
    layer = Layer(failures=1, error=error)
    with CpuFallback([layer], DEVICE) as fallback, pytest.raises(type(error)):
        fallback.discard_sample = lambda: pytest.fail("nothing to forget")
        layer(torch.ones(1, 2))
    assert len(layer.calls) == 1 and log.freed == []


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_each_sample_is_observed_once(log: Log, failures: int) -> None:
    layer = Layer(failures)
    inputs = LinearInputs({"linear": layer.linear}, {"linear": InputRange()})
    with CpuFallback([layer], DEVICE) as fallback, inputs:
        fallback.discard_sample = inputs.discard_sample
        for sample in (1.0, 2.0):
            inputs.see(None)
            layer(torch.full((3, 2), sample))
    assert inputs.observers["linear"].tokens == 6
    assert [sample.tolist() for sample in inputs.observers["linear"].samples] == [[1.0, 1.0], [2.0, 2.0]]


def test_the_original_forwards_are_restored_after_the_block(log: Log) -> None:
    def own(self: Layer, values: Tensor) -> Tensor:
        return -values

    plain, changed = Layer(), Layer()
    changed.forward = forward = MethodType(own, changed)
    with pytest.raises(KeyError), CpuFallback([plain, changed], DEVICE):
        assert "forward" in vars(plain) and changed.forward is not forward
        assert changed(torch.ones(2)).tolist() == [-1, -1]
        raise KeyError
    assert "forward" not in vars(plain)
    assert vars(changed)["forward"] is forward


def test_layers_on_the_cpu_are_not_changed(log: Log) -> None:
    layer = Layer(failures=1)
    with CpuFallback([layer], CPU), pytest.raises(RuntimeError):
        assert "forward" not in vars(layer)
        layer(torch.ones(1, 2))
    assert log == Log()


def works(after: int) -> Callable[[Tensor, int], Tensor]:
    """Return a function that runs out of memory in this many calls."""
    calls = []

    def work(values: Tensor, factor: int) -> Tensor:
        calls.append(values)
        if len(calls) <= after:
            raise RuntimeError(NPU)
        return values * factor

    return work


def test_work_without_enough_memory_is_done_on_the_cpu(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    assert with_cpu_retry(works(0), torch.ones(2), 3).tolist() == [3, 3]
    assert log.moves == [] and not caplog.records
    assert with_cpu_retry(works(1), torch.ones(2), 3).tolist() == [3, 3]
    assert log.moves == [CPU] and "work is done on the CPU" in caplog.text
    with pytest.raises(RuntimeError, match="NPU out of memory"):
        with_cpu_retry(works(2), torch.ones(2), 3)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(NPU),
        RuntimeError("NPU out of memory. NPUWorkspaceAllocator tried to allocate 1.89 GiB(NPU 7; 60.96 GiB total"),
        RuntimeError(
            "operator():compiler_depend.ts:128 NPU function error: call aclnnMatmul failed, error code is 207001\n"
            "[Error]: Failed to apply for memory.\nEL0004: [PID: 316198] Failed to allocate memory."
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_errors_are_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)
    device = torch.device("cuda:1")
    with pytest.raises(MissingCapabilityError, match="here or on cuda:1") as found, memory_errors(device):
        raise error
    assert "--samples" in found.value.hint and found.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError()],
)
def test_other_errors_are_not_changed(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as found, memory_errors(CPU):
        raise error
    assert found.value is error


def test_errors_of_the_cpu_allocator_are_recognised() -> None:
    with pytest.raises(MissingCapabilityError), memory_errors(CPU):
        torch.empty(2**60, dtype=torch.int8)
