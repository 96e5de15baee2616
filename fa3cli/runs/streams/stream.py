"""Defines a stream: samples that run through every layer for one purpose, and the bytes that this needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import Ranks
from fa3cli.runs.job import Job
from fa3cli.runs.streams.findings import Findings
from fa3cli.runs.streams.layer_bytes import forward_bytes, hidden_size, loaded_bytes, waiting_bytes

__all__ = ["Stream", "Visit", "Watcher"]

Watcher = LinearInputs[Any] | LayerObservation


@dataclass(frozen=True)
class Visit:
    """The visit of `part`, a decoder layer or the head, whose weights are loaded.

    `advance` runs this rank's share of the stream's samples through the part; the watcher gets each sample's mask.
    """

    part: str
    findings: Findings
    ranks: Ranks
    advance: Callable[[Watcher | None], None]


@dataclass(frozen=True)
class Stream(ABC):
    """The first `count` samples of a job."""

    job: Job
    count: int
    name: ClassVar[str]
    """The name of the stream's forwards in the journal."""

    @abstractmethod
    def visit(self, visit: Visit, found: LayerParameters) -> LayerParameters:
        """Run the samples through a part, and return `found`, the result of earlier streams, with this one's result."""

    def peak_bytes(self, part: str) -> int:
        """Return the peak of the bytes allocated while samples run through a loaded part, without waiting samples."""
        return loaded_bytes(self.job, part) + forward_bytes(self.job, part)

    @property
    def tokens(self) -> int:
        """The number of tokens of the samples."""
        return sum(sample.tokens for sample in self.job.samples[: self.count])

    @property
    def waiting_bytes(self) -> int:
        """The bytes of the samples while they wait between two layers."""
        return sum(waiting_bytes(self.job, sample) for sample in self.job.samples[: self.count])

    @property
    def state_bytes(self) -> int:
        """The bytes of the samples' states after one layer, as the journal stores them."""
        return self.tokens * hidden_size(self.job) * self.job.model.dtype.itemsize

    def linears(self, part: str, names: Collection[str]) -> dict[str, nn.Linear]:
        """Return the linears of a part that are among `names`."""
        return {name: linear for name, linear in self.job.model.linears(part).items() if name in names}
