from __future__ import annotations

import sys

import psutil
import pytest
import torch

from fa3cli.models.memory import FreedMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory this way")


def resident() -> int:
    return psutil.Process().memory_info().rss


def fragmented() -> list[torch.Tensor]:
    """Allocate 64 MB of small tensors in the heap, and keep one of 64."""
    return [torch.ones(1 << 14) for _ in range(1 << 10)][::64]


def test_freed_memory_goes_back_to_the_system() -> None:
    freed = FreedMemory(layer_bytes=0)
    freed.release()
    before = resident()
    kept = fragmented()
    freed.release()
    assert resident() - before < 16 << 20
    assert len(kept) == 16


def test_memory_is_released_only_after_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    freed, released = FreedMemory(layer_bytes=0), []
    freed.release()
    monkeypatch.setattr(freed, "_trim", released.append)
    freed.release_if_grown()
    freed.release_if_grown()
    assert released == []
    grown = torch.ones(5 << 20)  # 20 MB
    freed.release_if_grown()
    freed.release_if_grown()
    assert released == [0] and len(grown)


def test_other_c_libraries_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = FreedMemory(layer_bytes=0)
    monkeypatch.setattr(freed, "_trim", None)
    freed.release()
    freed.release_if_grown()


def test_a_large_layer_allows_more_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    freed, released = FreedMemory(layer_bytes=8 * 100 << 20), []
    freed.release()
    monkeypatch.setattr(freed, "_trim", released.append)
    freed.release_if_grown()
    grown = torch.ones(5 << 20)  # 20 MB of the allowed 100 MB
    freed.release_if_grown()
    assert released == [] and len(grown)
