"""Compares the images of an export with those of its float pipeline."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fa3cli.comparing.recorded_sampling import recorded_sampling
from fa3cli.errors import InvalidInputError
from fa3cli.exports.targets import TARGETS
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.pipelines.opening import OpenedPipeline, load_pipeline, open_pipeline
from fa3cli.pipelines.prompts import read_prompts
from fa3cli.pipelines.sampling import Sampling, require_accepted, sample, steps_of
from fa3cli.pipelines.step_recorder import before_each_step
from fa3cli.pipelines.streamed_blocks import blocks_streamed
from fa3cli.quantization.simulation.engine_model import simulate
from fa3cli.runs.progress import Progress, Ticks

__all__ = ["ImageComparison", "compare_images"]

_BLOCK = 1 << 20  # values that are converted to float64 at a time: a video has a billion


@dataclass(frozen=True)
class ImageComparison:
    """Differences between the images or videos of the simulated export and of the float pipeline, per prompt."""

    prompts: int
    psnr: tuple[float | None, ...]
    """Peak signal-to-noise ratio per prompt in dB, for values from 0 to 1; None if both images are equal."""
    mean_psnr: float | None
    """The mean over the prompts whose images differ; None if none differs."""
    largest_difference: float
    """The largest difference of a value over all prompts."""


def compare_images(
    export_dir: str | Path,
    pipeline_dir: str | Path,
    prompts_file: str | Path,
    *,
    trust_remote_code: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ImageComparison:
    """Sample each prompt of a file twice from the same noise: with the float pipeline and with the simulated export.

    The sampling settings come from the export's report, which is required. Progress counts steps as samples and prompts
    as layers.
    """
    component, dtype, settings = recorded_sampling(Path(export_dir))
    exported = Checkpoint(Path(export_dir), TARGETS["mindie-sd"].weight_file)
    fa = any(name.endswith(".fa_q.scale") for name in exported.tensors)
    opened = open_pipeline(Path(pipeline_dir), fa=fa, dtype=dtype, trust_remote_code=trust_remote_code)
    if component not in opened.transformers:
        raise InvalidInputError(
            f"{pipeline_dir}: has no {component}, from which {export_dir} was made",
            hint=f"its transformers are {', '.join(opened.transformers)}",
        )
    quantized = _open_export(exported, opened.transformers[component])
    sampling = replace(settings, prompts=read_prompts(Path(prompts_file)))
    require_accepted(opened.pipeline_class, sampling)
    return _comparison(list(_differences(opened, component, quantized, sampling, progress)))


def _open_export(exported: Checkpoint, float_model: StreamedModel) -> StreamedModel:
    """Return the simulated transformer of an export: the float one's structure with the export's tensors."""
    skeleton = copy.deepcopy(float_model.model)
    simulate(skeleton, {name: info.shape for name, info in exported.tensors.items()}, torch.float32)
    blocks = {name: skeleton.get_submodule(name) for name in float_model.layers}
    return StreamedModel(skeleton, exported, float_model.dtype, float_model.device, blocks)


def _differences(
    opened: OpenedPipeline,
    component: str,
    quantized: StreamedModel,
    sampling: Sampling,
    progress: Callable[[Progress], None],
) -> Iterator[tuple[float, float]]:
    """Yield the mean square and the largest magnitude of each prompt's image difference."""
    floats = {name: model.model for name, model in opened.transformers.items()}
    count = len(sampling.prompts)
    steps = 2 * count * steps_of(opened.pipeline_class, sampling)
    ticks = Ticks(count, steps, progress, unit="prompt")
    with ExitStack() as stack:
        for model in (*opened.transformers.values(), quantized):
            stack.enter_context(blocks_streamed(model))
        pipeline = load_pipeline(opened, floats)
        for prompt in range(count):
            images = []
            for transformer in (floats[component], quantized.model):
                setattr(pipeline, component, transformer)
                with before_each_step(pipeline.scheduler, ticks.sample_begins):
                    images.append(sample(pipeline, sampling, prompt, output_type="pt").cpu())
            yield _difference(*images)
            ticks.layer_ends()


def _difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Return the mean square and the largest magnitude of a difference of values in 0..1; NaN counts as 1."""
    squares = largest = 0.0
    for one, other in zip(*(torch.split(images.flatten(), _BLOCK) for images in (expected, found)), strict=True):
        difference = (other.double() - one.double()).abs_().nan_to_num_(nan=1.0)
        squares += difference.square().sum().item()
        largest = max(largest, difference.max().item())
    return squares / expected.numel(), largest


def _comparison(differences: list[tuple[float, float]]) -> ImageComparison:
    psnr = tuple(-10 * math.log10(square) if square else None for square, _ in differences)
    differing = [ratio for ratio in psnr if ratio is not None]
    return ImageComparison(
        prompts=len(differences),
        psnr=psnr,
        mean_psnr=sum(differing) / len(differing) if differing else None,
        largest_difference=max(largest for _, largest in differences),
    )
