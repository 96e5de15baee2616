"""Defines the job that quantizes one transformer of a pipeline, on records of the pipeline's float sampling run."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fa3cli.calibration.ranks import Ranks
from fa3cli.errors import StoppedError, UnsupportedError
from fa3cli.exports.folder import RunFolder
from fa3cli.files.hashing import fingerprint, sha256_of
from fa3cli.models.checkpoint import read_header
from fa3cli.patching.diffusion.index import INDEX
from fa3cli.pipelines.disk_room import RECORDS
from fa3cli.pipelines.opening import OpenedPipeline
from fa3cli.pipelines.recording import read_records, record, recorded_steps
from fa3cli.pipelines.sampling import Sampling, steps_of
from fa3cli.runs.job import Job
from fa3cli.runs.progress import Progress

__all__ = ["TransformerJob"]


@dataclass(frozen=True, kw_only=True)
class TransformerJob(Job):
    """A job whose samples are the calls of the transformer `component` while the `pipeline` is sampled."""

    pipeline: OpenedPipeline
    component: str
    sampling: Sampling

    @property
    def sample_count(self) -> int:
        """Number of the transformer's recorded calls; before the recording, the number of steps to record."""
        if self.samples:
            return len(self.samples)
        steps = steps_of(self.pipeline.pipeline_class, self.sampling)
        return len(recorded_steps(len(self.sampling.prompts), steps, self.sampling.max_records))

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("diffusers",)

    def sample_identity(self) -> dict[str, Any]:
        """Return all inputs of the pipeline's float sampling run except this transformer."""
        sampling = asdict(self.sampling)
        return {
            "calibration": sha256_of(*sampling.pop("prompts")),
            "sampling": sampling,
            "component": self.component,
            # All parts: text encoders and scheduler determine the arguments of the transformer.
            "pipeline": sha256_of(*_fingerprints(self.pipeline.folder, self.pipeline.parts)),
        }

    def with_samples(
        self, folder: RunFolder, ranks: Ranks, report: Callable[[Progress], None], stop: Callable[[], bool]
    ) -> TransformerJob:
        """Return the job with its samples: the leading rank samples the pipeline, unless an earlier run has done so.

        Raises StoppedError after the step at which `stop` returns True, UnsupportedError if no record is of this component.
        """
        records = folder.journal / "records"

        def reported(at: Progress) -> None:
            # Progress is reported at each step, so Ctrl-C does not wait for the whole sampling.
            report(at)
            if stop():
                raise StoppedError(
                    "stopped while the pipeline was sampled (interrupted)", hint="the same command resumes from here"
                )

        # One rank samples the pipeline; the others wait at the barrier below.
        if ranks.leads:
            try:
                record(self.pipeline, self.sampling, records, reported, component=self.component)
            finally:
                # Records are kept after an error or Ctrl-C: a later run samples only prompts that lack records.
                folder.keep = folder.keep or any(records.glob(RECORDS))
                gc.collect()  # frees the pipeline, whose parts form reference cycles
        ranks.gather(None)
        # Read after the barrier, when all records are on the disk.
        samples = read_records(records).get(self.component, ())
        if not samples:
            raise UnsupportedError(
                f"{self.folder}: no recorded step of the sampling calls this transformer",
                hint="if transformers share the steps, give --steps and --max-records large enough for all of them",
            )
        return replace(self, samples=samples)


def _fingerprints(folder: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield the name and a hash of model_index.json, of code beside it, and of all files in the folders of `parts`.

    A folder may be a link. Weights are hashed in a sample of blocks, other files completely.
    """
    files = [folder / INDEX, *sorted(folder.glob("*.py"))]
    files += [file for part in parts for file in sorted((folder / part).glob("**/*"))]
    for file in files:
        if file.is_file():
            yield str(file.relative_to(folder))
            if file.suffix == ".safetensors":
                yield fingerprint(file, [info.begin for info in read_header(file.parent, file.name).values()])
            else:
                yield hashlib.sha256(file.read_bytes()).hexdigest()
