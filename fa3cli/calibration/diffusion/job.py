"""Defines the job that quantizes one transformer of a pipeline, on records of the pipeline's float sampling run."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

from fa3cli.calibration.diffusion.choice import recorded_steps
from fa3cli.calibration.diffusion.opening import OpenedPipeline
from fa3cli.calibration.diffusion.recording import read_records, record
from fa3cli.calibration.diffusion.sampling import Sampling, steps_of
from fa3cli.calibration.job import Job
from fa3cli.calibration.progress import Progress
from fa3cli.calibration.ranks import Ranks
from fa3cli.errors import StoppedError, UnsupportedError
from fa3cli.exports.folder import RunFolder

__all__ = ["TransformerJob"]


@dataclass(frozen=True)
class TransformerJob(Job):
    """A job whose samples are the calls of the transformer `component` while the `pipeline` is sampled."""

    pipeline: OpenedPipeline | None = None
    component: str = ""
    sampling: Sampling | None = None

    @property
    def sample_count(self) -> int:
        """Number of the transformer's recorded calls; before the recording, number of the steps to record."""
        if self.samples:
            return len(self.samples)
        steps = steps_of(self.pipeline.pipeline_class, self.sampling)
        return len(recorded_steps(len(self.sampling.prompts), steps, self.sampling.max_records))

    def with_samples(
        self, folder: RunFolder, ranks: Ranks, report: Callable[[Progress], None], stop: Callable[[], bool]
    ) -> TransformerJob:
        """Return the job with its samples: the leading rank samples the pipeline, unless an earlier run has done so.

        Raises StoppedError after the step at which `stop` returns True, UnsupportedError if no record is of this component.
        """
        records = folder.journal / "records"

        def reported(at: Progress) -> None:
            report(at)
            if stop():
                raise StoppedError(
                    "stopped while the pipeline was sampled (interrupted)",
                    hint="the same command goes on from here",
                )

        if ranks.leads:
            try:
                record(self.pipeline, self.sampling, records, reported, component=self.component)
            finally:
                folder.keep = folder.keep or any(records.glob("record-*.safetensors"))
                gc.collect()  # frees the pipeline, whose parts form reference cycles
        ranks.gather(None)
        samples = read_records(records).get(self.component, ())
        if not samples:
            raise UnsupportedError(
                f"{self.folder}: no recorded step of the sampling calls it",
                hint="if transformers share the steps, give --steps and --max-records large enough for all of them",
            )
        return replace(self, samples=samples)
