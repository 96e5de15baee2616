"""Shares a run between processes (torch.distributed): each rank takes a part of the samples and of the writing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from fa3cli.errors import MissingCapabilityError, UnsupportedError, brief
from fa3cli.models.tensor_tree import CPU, moved
from fa3cli.observers import Mergeable

__all__ = ["ALONE", "Ranks", "joined_ranks"]

Value = TypeVar("Value")
Observer = TypeVar("Observer", bound=Mergeable)
_BACKENDS = {"npu": "hccl", "cuda": "nccl"}
# A rank that dies closes its connections, and its peers fail at once; the timeout is for a network without replies.
_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of ranks, with their communication."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank finishes files and writes the journal."""
        return self.rank == 0

    def positions(self, count: int) -> range:
        """Return the positions of this rank's samples among `count`: every size-th."""
        # The leading rank has the first sample, on which scores and errors are measured.
        return range(self.rank, count, self.size)

    def gather(self, value: Value) -> list[Value]:
        """Return all ranks' values in order of rank; waits for all. Raises MissingCapabilityError if a rank dies."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            # Sent as CPU tensors: a receiver would restore other tensors on the sender's device.
            torch.distributed.all_gather_object(values, moved(value, CPU))
        except RuntimeError as error:
            raise MissingCapabilityError(
                f"another rank of this run has died ({brief(error)})",
                hint="read the error of the other rank; the same command resumes at the first unfinished layer",
            ) from error
        return values

    def first(self, value: Value) -> Value:
        """Return the leading rank's value."""
        return self.gather(value)[0]

    def merged(self, observers: Mapping[str, Observer]) -> dict[str, Observer]:
        """Return observers that are merged over all ranks."""
        if self.size == 1:
            return dict(observers)
        first, *others = self.gather(dict(observers))
        return {name: seen.merged(*(other[name] for other in others)) for name, seen in first.items()}

    def owners(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Assign work to ranks by its size: the largest first, always to the rank with the least work."""
        load = [0] * self.size
        owners = {}
        # sorted is stable: all ranks must compute the same owners.
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            owners[name] = load.index(min(load))
            load[owners[name]] += size
        return owners


ALONE = Ranks()


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if any: gloo on the CPU, with hccl or nccl for devices."""
    given = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    # torchrun sets all three; other tools may set some of them for purposes of their own.
    if not all(text.isdigit() for text in given) or "MASTER_ADDR" not in os.environ or int(given[1]) < 2:
        yield ALONE
        return
    if not torch.distributed.is_available():
        raise UnsupportedError("this torch has no torch.distributed, which more than one rank needs")
    own = _BACKENDS.get(device.type)
    # Statistics travel as objects on the CPU, through gloo, even if a device has a backend of its own.
    backend = f"cpu:gloo,{device.type}:{own}" if own else "gloo"
    try:
        torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise MissingCapabilityError(f"the ranks of this run cannot reach each other ({brief(error)})") from error
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
