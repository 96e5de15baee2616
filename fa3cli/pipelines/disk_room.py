"""Checks, from the size of the first record, the disk space for all records and the states of their replay."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from fa3cli.errors import MissingCapabilityError
from fa3cli.models.tree_file import tensors_of

__all__ = ["RECORDS", "disk_room_check"]

RECORDS = "record-*.safetensors"
"""Pattern of the names of records, the files of a pipeline's recorded steps."""


@contextmanager
def disk_room_check(blocks: Iterable[nn.Module], folder: Path, records: int) -> Iterator[Callable[[], None]]:
    """Yield a function that raises MissingCapabilityError if `folder` lacks the space for `records` like the first.

    A replay keeps two blocks' outputs per call on the disk; the largest output of `blocks` is measured within the block.
    """
    largest = 0

    def measure(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(tensor.nbytes for tensor in tensors_of(output)))

    def require_room() -> None:
        file = next(folder.glob(RECORDS), None)
        # The size of a record is not known before the first one is written.
        if file is None:
            return
        # Two: an interrupted run computes a block's states again from the states of the previous block.
        needed, free = records * (file.stat().st_size + 2 * largest), shutil.disk_usage(folder).free
        if needed > free:
            raise MissingCapabilityError(
                f"{folder}: {records} records and their states need about {needed / 1e9:,.1f} GB, but the disk has "
                f"{free / 1e9:,.1f} GB free",
                hint="free disk space, choose an --output on another disk, or record less with --max-records",
            )

    hooks = [block.register_forward_hook(measure) for block in blocks]
    try:
        yield require_room
    finally:
        for hook in hooks:
            hook.remove()
