"""Runs of fa3 on the test device; what they make is compared with the CPU's by the tests that ask for them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli import AntiOutlier, AntiOutlierConfig, Calibrator, QuantConfig, api
from fa3cli.errors import MissingCapabilityError
from fa3cli.exports.layout import WEIGHT_FILE
from fa3cli.models import opening
from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.observers.input_range import InputRange
from fa3cli.observers.mergeable_histogram import MergeableHistogram
from fa3cli.observers.range_param import RangeParam
from fa3cli.observers.reference_histogram import HistogramRange
from fa3cli.observers.reference_range import ReferenceRange
from fa3cli.pipelines import opening as diffusion_opening
from tests.device_backend.testdev import DEVICE, set_limit
from tests.guide import export, load, script_data

__all__ = [
    "compare",
    "export_from_memory",
    "observe_samples_of_two_devices",
    "quantize",
    "quantize_pipeline",
    "run_out_of_memory",
]


def quantize(folder: str, output: str, calib: str, options: dict[str, Any]) -> None:
    """Make an export with the model on the device."""
    with _opened_on_device():
        api.quantize(folder, output=output, calib=calib, **options)
    assert torch.testdev.memory_allocated() == 0


def compare(made: str, folder: str, text: str, expected: dict[str, Any]) -> None:
    """Compare an export with its float model, both on the device."""
    with _opened_on_device():
        found = asdict(api.compare(made, folder, text))
        assert json.loads(json.dumps(found)) == expected  # which came as json


def export_from_memory(folder: str, output: str, anti_method: str) -> None:
    """Make an export as a script does, with its model and data on the device."""
    model, data = (
        load(Path(folder)).to(DEVICE),
        [[each.to(DEVICE) for each in line] for line in script_data()],
    )
    config = AntiOutlierConfig(anti_method=anti_method, dev_type=DEVICE.type)
    AntiOutlier(model, calib_data=data, cfg=config).process()
    config = QuantConfig(dev_type=DEVICE.type).fa_quant(fa_amp=0)
    export(Calibrator(model, config, calib_data=data), Path(output))


def run_out_of_memory(folder: str, output: str, calib: str, options: dict[str, Any]) -> None:
    """Give the device less memory than a run needs, in steps: it makes the same export or none, and holds nothing."""
    torch.testdev.reset_peak_memory_stats()
    quantize(folder, f"{output}-whole", calib, options)
    peak = torch.testdev.max_memory_allocated()
    made = []
    for share in (0.05, 0.6, 0.8, 0.9, 0.97):
        set_limit(int(peak * share))
        try:
            with _opened_on_device():
                api.quantize(folder, output=f"{output}-{share}", calib=calib, **options)
            made.append(share)
            found, expected = (Path(f"{output}-{which}") / WEIGHT_FILE for which in (share, "whole"))
            assert found.read_bytes() == expected.read_bytes()
        except MissingCapabilityError as error:
            assert "not enough memory" in str(error)
        finally:
            set_limit(0)
        assert torch.testdev.memory_allocated() == 0
    # Weights of AntiOutlier's check that don't fit have no way around; calls of layers have.
    assert 0.05 not in made and (0.97 in made or "anti_method" in options), made


def quantize_pipeline(folder: str, output: str, prompts: str, options: dict[str, Any]) -> None:
    """Sample a pipeline on the device, make the exports of its transformers there, and compare images."""
    with _opened_on_device(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTDEV_FLOAT64", "1")
        results = api.quantize_all(folder, output=output, prompts=prompts, **options)
        found = api.compare_images(results[0].output, folder, prompts)
    assert found.mean_psnr > 30
    gc.collect()  # a pipeline's parts refer to each other
    assert torch.testdev.memory_allocated() == 0


def observe_samples_of_two_devices() -> None:
    """Give an observer samples of the device and of the CPU in turn: it knows what it would of the CPU's alone."""
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(5, 8, generator=generator) for _ in range(4)]
    for observer in (
        InputRange(),
        ReferenceRange(),
        MergeableHistogram(),
        HistogramRange(),
        RangeParam(),
        ChannelStatistics(keep=2),
    ):
        for begin in (0, 1):
            mixed = alone = observer
            for index, sample in enumerate(samples, start=begin):
                mixed, alone = (
                    mixed.updated(sample.to(DEVICE) if index % 2 else sample),
                    alone.updated(sample),
                )
            assert [each.tolist() for each in _known(mixed)] == [each.tolist() for each in _known(alone)]


def _known(observer: Any) -> list[torch.Tensor]:
    """Return what an observer ends in."""
    if isinstance(observer, ChannelStatistics):
        assert len({each.device for each in (observer.low, *observer.samples)}) == 1
        return [observer.low, observer.high, *observer.samples]
    return [torch.tensor(observer.value())] if isinstance(observer, RangeParam) else list(observer.bounds())


@contextmanager
def _opened_on_device() -> Iterator[None]:
    """Have models opened on the device within the block, whatever device is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        for opens in (opening, diffusion_opening):
            patch.setattr(opens, "device_of", lambda _: DEVICE)
        yield
