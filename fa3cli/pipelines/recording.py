"""Samples the float pipeline and records the transformers' calls, one file per prompt and step."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import torch

from fa3cli.errors import UnsupportedError
from fa3cli.models.tensor_tree import moved
from fa3cli.models.tree_file import read_tree
from fa3cli.pipelines.disk_room import RECORDS, disk_room_check
from fa3cli.pipelines.opening import OpenedPipeline, load_pipeline
from fa3cli.pipelines.sampling import Sampling, require_accepted, sample, steps_of
from fa3cli.pipelines.step_recorder import StepRecorder, require_timesteps
from fa3cli.pipelines.streamed_blocks import blocks_streamed
from fa3cli.runs.progress import Progress, Ticks

__all__ = ["RecordedSample", "read_records", "record", "recorded_steps"]

_NAME = re.compile(r"record-(\d{5})-(\d{5})\.safetensors")


@dataclass(frozen=True)
class RecordedSample:
    """One recorded call of a transformer; it is stored in the file of its step."""

    origin: str
    file: Path
    call: int
    timestep: float
    tokens: int = 0
    """Always 0, which means unknown: each transformer has its own tokens."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the call, read from the file."""
        arguments: dict[str, Any] = read_tree(self.file)["calls"][self.call]["arguments"]
        return arguments

    @property
    def mask(self) -> None:
        """None: no token is padding."""
        return None

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the keyword arguments of the call, read from the file, on `device`."""
        return {name: moved(value, device) for name, value in self.arguments.items()}


def recorded_steps(prompts: int, steps: int, count: int | None) -> frozenset[tuple[int, int]]:
    """Return the pairs of prompt and step to record: all pairs without a `count`, else at most `count`.

    The numbers of pairs per prompt differ by at most one, and the numbers per step, too, if `count` >= `steps`.
    Otherwise the steps are spread evenly from first to last. The first step of the first prompt is always included.
    """
    count = prompts * steps if count is None else min(count, prompts * steps)
    if count < steps:
        return frozenset((index % prompts, index * (steps - 1) // max(count - 1, 1)) for index in range(count))
    # Cycle both; shift the step by one per full cycle, so that no pair repeats.
    period = lcm(prompts, steps)
    return frozenset((index % prompts, (index + index // period) % steps) for index in range(count))


def record(
    opened: OpenedPipeline,
    sampling: Sampling,
    folder: Path,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    component: str | None = None,
) -> None:
    """Sample the prompts with the float pipeline and write the chosen steps of each into `folder`.

    With a `component`, records of other components' steps are empty. Prompts without chosen steps are not sampled, and
    neither are prompts whose files an earlier run has written. Progress counts steps as samples and prompts as layers.

    Raises UnsupportedError if the pipeline takes other arguments or another number of steps, or calls its transformers
    with values that cannot be written; MissingCapabilityError if the disk is too small for records and replay.
    """
    require_accepted(opened.pipeline_class, sampling)
    modules = {name: model.model for name, model in opened.transformers.items()}
    require_timesteps(modules)
    steps = steps_of(opened.pipeline_class, sampling)
    files = _files(folder, recorded_steps(len(sampling.prompts), steps, sampling.max_records))
    # A prompt that lacks a record starts at its first step: a sampling cannot be resumed in the middle.
    todo = [prompt for prompt, step_files in files.items() if not all(map(Path.is_file, step_files.values()))]
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # max + 1: a prompt is sampled up to its last recorded step, and no further.
    ticks = Ticks(len(files), sum(max(step_files) + 1 for step_files in files.values()), report, unit="prompt")
    for prompt in files.keys() - set(todo):
        ticks.skip_layer(max(files[prompt]) + 1)
    with ExitStack() as stack:
        for model in opened.transformers.values():
            stack.enter_context(blocks_streamed(model))
        pipeline = load_pipeline(opened, modules)
        if not hasattr(pipeline, "scheduler"):
            raise UnsupportedError(f"{opened.pipeline_class_name} has no scheduler, so its steps are not known")
        blocks = [block for model in opened.transformers.values() for block in model.layers.values()]
        count = sum(map(len, files.values()))
        require_room = stack.enter_context(disk_room_check(blocks, folder, count))

        def begins() -> None:
            require_room()
            ticks.sample_begins()

        for prompt in todo:
            with StepRecorder(modules, pipeline.scheduler, steps, files[prompt], begins, kept=component):
                # The recorder ends the sampling after the last recorded step.
                sample(pipeline, sampling, prompt)
            # Checked again after the last step, since no next step begins.
            require_room()
            ticks.layer_ends()


def _files(folder: Path, pairs: frozenset[tuple[int, int]]) -> dict[int, dict[int, Path]]:
    """Return the file of each pair of prompt and step, by prompt, then by step."""
    files: dict[int, dict[int, Path]] = {}
    for prompt, step in sorted(pairs):
        files.setdefault(prompt, {})[step] = folder / f"record-{prompt:05d}-{step:05d}.safetensors"
    return files


def read_records(folder: Path) -> dict[str, list[RecordedSample]]:
    """Return the recorded calls in `folder` by component, in the order of prompts and steps.

    Raises ConflictError for a broken file.
    """
    samples: dict[str, list[RecordedSample]] = {}
    # Names with leading zeros: this is the order of prompts and steps, on every rank.
    for file in sorted(folder.glob(RECORDS)):
        if (found := _NAME.fullmatch(file.name)) is None:
            continue
        held = read_tree(file)
        origin = f"prompt {int(found[1]) + 1}, step {int(found[2]) + 1}"
        for number, call in enumerate(held["calls"]):
            call_text = f", call {number + 1}" if len(held["calls"]) > 1 else ""
            samples.setdefault(held["component"], []).append(
                RecordedSample(f"{origin}{call_text}", file, number, call["timestep"])
            )
    return samples
