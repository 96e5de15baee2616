"""Tests that layer code runs on fake tensors of another device."""

from __future__ import annotations

from pathlib import Path

from tests.device_backend.process import Call, call_apart
from tests.sample_models import write_model


def test_layer_code_stays_on_the_device(tmp_path: Path) -> None:
    calls = [Call("fake.simulate")]
    for model in ("llama", "qwen2"):
        folder = str(write_model(tmp_path / f"{model}-{tmp_path.name}", model))
        calls += [Call(f"fake.{name}", {"folder": folder}) for name in ("observe_layers", "smooth_layers")]
    assert call_apart(calls, tmp_path) == [None] * len(calls)
