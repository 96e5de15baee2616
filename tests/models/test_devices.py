"""Tests that a device is found by name and set up, or an error says what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from fa3cli.errors import MissingCapabilityError, UsageError
from fa3cli.models import devices
from fa3cli.models.devices import computes_bfloat16, device_kind, device_of, free_memory
from tests import sample_models


class Device(NamedTuple):
    """Replaces torch.device, which does not know npu without torch_npu."""

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


class Backend(ModuleType):
    """Replaces torch.npu and torch.cuda, and records the calls."""

    def __init__(self, count: int, *, bfloat16: bool = True) -> None:
        super().__init__("stand-in")
        self.count, self.bfloat16, self.asked = count, bfloat16, []

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def set_device(self, device: torch.device) -> None:
        self.asked.append(str(device))

    def set_compile_mode(self, **options: Any) -> None:
        self.asked.append(options)

    def get_device_name(self, device: torch.device) -> str:
        return f"Ascend {device.index}"

    def is_bf16_supported(self) -> bool:
        return self.bfloat16

    def empty_cache(self) -> None:
        self.asked.append("empty_cache")


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Two NPUs."""
    backend, installed = Backend(2), ModuleType("torch_npu")
    monkeypatch.setitem(sys.modules, "torch_npu", installed)
    monkeypatch.setattr(devices.util, "find_spec", lambda name: name)
    monkeypatch.setattr(devices, "torch", SimpleNamespace(npu=backend, cuda=Backend(0), device=Device))
    return backend


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Three CUDA devices, and no torch_npu."""
    backend = Backend(3)
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    monkeypatch.setattr(devices.util, "find_spec", lambda _: None)
    monkeypatch.setattr(devices, "torch", SimpleNamespace(cuda=backend, device=Device))
    return backend


@pytest.mark.parametrize("name", ["", "gpu", "npu:", "npu:-1", "npu:a", "cpu:0", "auto:1", "NPU", "cuda:0 ", "xpu"])
def test_an_unknown_device_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, npu, npu:N, cuda or cuda:N") as raised:
        device_of(name)
    assert raised.value.exit_code == 2


def test_the_cpu_needs_no_setup(npu: Backend) -> None:
    assert device_of("cpu") == Device("cpu") and npu.asked == []
    assert computes_bfloat16(Device("cpu")) and device_kind(Device("cpu")) == "cpu"
    free_memory(Device("cpu"))


@pytest.mark.parametrize(("name", "index"), [("npu", 0), ("npu:0", 0), ("npu:1", 1), ("auto", 0)])
def test_an_npu_is_set_up(npu: Backend, name: str, index: int) -> None:
    device = device_of(name)
    assert (device.type, device.index) == ("npu", index)
    assert npu.asked[-2:] == [{"jit_compile": False}, f"npu:{index}"]
    assert device_kind(device) == f"npu, Ascend {index}"
    free_memory(device)
    assert npu.asked[-1] == "empty_cache"


@pytest.mark.parametrize(("rank", "index"), [("0", 0), ("1", 1), ("2", 0), ("5", 1)])
def test_each_rank_has_its_own_device(npu: Backend, monkeypatch: pytest.MonkeyPatch, rank: str, index: int) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert device_of("npu").index == device_of("auto").index == index
    assert device_of("npu:0").index == 0


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:2", 2), ("auto", 0)])
def test_a_cuda_device_is_set_up(cuda: Backend, name: str, index: int) -> None:
    device = device_of(name)
    assert (device.type, device.index) == ("cuda", index)
    assert cuda.asked == [f"cuda:{index}"]


@pytest.mark.parametrize("name", ["npu:2", "cuda", "cuda:0"])
def test_a_missing_device_is_a_missing_capability(npu: Backend, name: str) -> None:
    with pytest.raises(MissingCapabilityError, match=f"--device {name}: torch sees [02] such") as raised:
        device_of(name)
    assert raised.value.exit_code == 6 and raised.value.hint


def test_no_torch_npu_is_a_missing_capability(cuda: Backend) -> None:
    with pytest.raises(MissingCapabilityError, match="torch_npu cannot be imported") as raised:
        device_of("npu")
    assert raised.value.exit_code == 6 and "pip install" in raised.value.hint


@pytest.mark.parametrize("error", [ImportError("libhccl.so"), RuntimeError("driver"), OSError("no such file")])
def test_a_broken_torch_npu_is_named_and_auto_uses_the_cpu(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: str) -> None:
        raise error

    monkeypatch.setattr(devices.importlib, "import_module", broken)
    with pytest.raises(MissingCapabilityError, match=str(error)):
        device_of("npu")
    assert device_of("auto") == Device("cpu")


def test_auto_is_the_cpu_without_other_devices(cuda: Backend) -> None:
    cuda.count = 0
    assert device_of("auto") == Device("cpu")


def test_auto_prefers_the_npu(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch, "cuda", Backend(1))
    assert device_of("auto").type == "npu"


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_support_is_asked_from_the_device(npu: Backend, supported: bool) -> None:
    npu.bfloat16 = supported
    assert computes_bfloat16(Device("npu", 0)) is supported


def test_a_device_without_this_function_supports_bfloat16(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch, "npu", ModuleType("old"))
    assert computes_bfloat16(Device("npu", 0))
    free_memory(Device("npu", 0))
    assert device_kind(Device("npu", 0)) == "npu"


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_the_dtype_auto_is_supported_by_the_device(
    qwen2_tiny: Path, monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda _: supported)
    calib = qwen2_tiny.parent / "calib.jsonl"
    calib.write_text('{"input_ids": [1, 2, 3]}\n')
    options = {"calib": calib, "output": qwen2_tiny.parent / "out", "device": "cpu"}
    assert sample_models.prepare(qwen2_tiny, **options).model.dtype == dtype
    assert sample_models.prepare(qwen2_tiny, dtype="bfloat16", **options).model.dtype == torch.bfloat16
