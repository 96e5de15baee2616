"""Records the finished layers of a run on the disk, so that the same command resumes after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from fa3cli import logger
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.errors import ConflictError
from fa3cli.exports.folder import RunFolder
from fa3cli.files.documents import read_json, typed
from fa3cli.files.reading import LARGE
from fa3cli.files.writing import sync, write_file
from fa3cli.models.tree_file import read_tree, tensors_of, write_tree
from fa3cli.runs.identity import differing

__all__ = ["Journal", "NotResumableError", "has_records", "open_journal", "require_nothing_kept"]

_IDENTITY = "identity.json"

T = TypeVar("T")


class NotResumableError(ConflictError):
    """A model's forward cannot be resumed between two layers."""


@dataclass(frozen=True)
class _Boundary:
    """The part of a journal entry besides the visit: a hash of the arguments of the next layer's call."""

    digest: str


class Journal:
    """The finished visits of layers, one entry per visit, and every forward's output of the last visited layer.

    An entry exists only if everything that the visit wrote is on the disk. Without a folder, visits stay in memory.
    """

    def __init__(self, folder: RunFolder | None = None, ranks: Ranks = ALONE) -> None:
        self._folder, self._ranks = folder, ranks
        self.visits: list[LayerParameters] = []
        self._digest = ""
        while folder is not None and os.path.lexists(entry := self._entry(len(self.visits))):
            visit, self._digest = _read_entry(entry)
            self.visits.append(visit)

    def commit(self, visit: LayerParameters, outputs: Mapping[str, Any], arguments: Any) -> None:
        """Write a visit, the layer's `outputs` by forward, and a hash of the `arguments` of the next layer's first call."""
        number = len(self.visits)
        self.visits.append(visit)
        if self._folder is None:
            return
        try:
            write_tree(self._states(number, self._ranks.rank), outputs)
            written = True
        except TypeError:
            written = False
        # All ranks or none: without the states of one rank, no run could resume from the entry.
        # gather is a barrier, too: all states are written before the entry below.
        if not all(self._ranks.gather(written)):
            self._folder = None
            logger.warning("%s returns values that cannot be written to a file: a stopped run starts over", visit.name)
            return
        if self._ranks.leads:
            # States are synced first: an entry must not be on the disk before its states.
            sync(self._folder.journal)
            kept = {field.name: getattr(visit, field.name) for field in fields(visit)}
            write_tree(self._entry(number), {**kept, "digest": _digest(arguments)})
            sync(self._folder.journal)
            # From here on a later run can resume, so an error must not remove the folder.
            self._folder.keep = True
        # The previous visit's states stay: a rank may arrive here before rank 0 has written this entry.
        self._states(number - 2, self._ranks.rank).unlink(missing_ok=True)

    def outputs(self, forwards: Sequence[str]) -> list[Any]:
        """Return the last visited layer's outputs of these forwards, on the CPU, from the files of all ranks.

        Raises ConflictError if a file is missing.
        """
        kept: dict[str, Any] = {}
        states = self._states(len(self.visits) - 1, "*").name
        for file in self._journal.glob(states):
            kept |= _typed(file, read_tree(file), dict[str, Any])
        if not kept.keys() >= set(forwards):
            raise ConflictError(
                f"{self._journal}: some files {states} are missing",
                hint="let all ranks write to the same disk; --resume never starts over",
            )
        return [kept[forward] for forward in forwards]

    def states(self) -> Path:
        """Return the folder for states of replayed forwards; it is removed with the run's folder."""
        folder = self._journal / "states"
        folder.mkdir(exist_ok=True)
        return folder

    def require_same(self, arguments: Any) -> None:
        """Raise NotResumableError if the next layer's arguments differ from those before the interruption."""
        # The leading rank decides: it has the first forward, whose arguments the entry holds.
        if not self._ranks.first(_digest(arguments) == self._digest):
            raise NotResumableError(
                f"the layer after {self.visits[-1].name} needs more than that layer's output and the results of "
                "the code before the layers (for example K and V of other layers), which a journal does not hold",
                hint="runs of this model cannot be resumed",
            )

    @property
    def _journal(self) -> Path:
        if self._folder is None:
            raise ValueError("a journal in memory has no files")
        return self._folder.journal

    def _entry(self, number: int) -> Path:
        return self._journal / f"visit-{number:05d}.safetensors"

    def _states(self, number: int, rank: int | str) -> Path:
        return self._journal / f"states-{number:05d}.{rank}.safetensors"


def open_journal(folder: RunFolder, run_identity: dict[str, Any], resume: str) -> None:
    """Keep or clear the journal of an earlier run in `folder`, according to `resume` (auto, required, never).

    Raises ConflictError, naming the differences, if that run had another identity, or if there is no journal although
    one is required.
    """
    file = folder.journal / _IDENTITY
    if _holds_records(folder) and resume != "never":
        folder.keep = True
        # With keep set, this error does not remove the journal of the other run.
        if differs := differing(_read_identity(file), run_identity):
            raise ConflictError(
                f"{folder.path}: left by a stopped run that was made from other {', '.join(differs)}",
                hint="run that command again to finish it; --resume never discards it and starts over",
            )
        return
    if resume == "required":
        raise ConflictError(
            f"{folder.path}: nothing there to resume", hint="without --resume required, a new run starts"
        )
    folder.clear()
    # Written after clear: without an identity, files that a killed run leaves here do not count as a journal.
    write_file(file, (json.dumps(run_identity, indent=2) + "\n").encode())


def require_nothing_kept(folder: RunFolder) -> None:
    """Raise ConflictError if the folder holds a stopped run that could be resumed."""
    if _holds_records(folder):
        # The error must not remove the journal of the other run.
        folder.keep = True
        raise ConflictError(
            f"{folder.path}: left by a stopped run of fa3 quantize",
            hint="run that command again to finish it, or choose another --output",
        )


def _holds_records(folder: RunFolder) -> bool:
    # clear removes the export first: a journal without an export is a leftover of a killed clear.
    begun = folder.export.is_dir() and os.path.lexists(folder.journal / _IDENTITY)
    return begun and has_records(folder)


def has_records(folder: RunFolder) -> bool:
    """Tell whether the folder holds finished work: a visit, or a recorded step of a sampling run."""
    kept = (folder.journal.glob("visit-*.safetensors"), folder.journal.glob("records/*.safetensors"))
    return any(any(files) for files in kept)


def _read_identity(file: Path) -> dict[str, Any]:
    try:
        return typed(read_json(file, LARGE), dict[str, Any])
    except (OSError, ValueError) as error:
        raise ConflictError(
            f"{file}: not as fa3 wrote it ({error})", hint="--resume never discards that run and starts over"
        ) from error


def _read_entry(file: Path) -> tuple[LayerParameters, str]:
    """Return a visit, and the hash of the arguments of the next layer's call."""
    kept = read_tree(file)
    return _typed(file, kept, LayerParameters), _typed(file, kept, _Boundary).digest


def _typed(file: Path, kept: Any, kind: type[T]) -> T:
    try:
        return typed(kept, kind)
    except ValueError as error:
        raise ConflictError(
            f"{file}: not as fa3 wrote it ({error})", hint="the same command with --resume never starts over"
        ) from error


def _digest(arguments: Any) -> str:
    """Hash the tensors of a call's arguments."""
    digest = hashlib.sha256()
    for tensor in tensors_of(arguments):
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
