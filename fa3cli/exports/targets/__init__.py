"""Registers the targets that an export can be written for, under their names for `--target`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fa3cli.errors import UnsupportedError, UsageError
from fa3cli.exports.target_names import DEFAULT_TARGETS
from fa3cli.exports.targets.mindie import MindIE
from fa3cli.exports.targets.mindie_sd import MindIESD
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.serving import Served
from fa3cli.exports.targets.target import Target
from fa3cli.exports.targets.vllm import Vllm
from fa3cli.exports.targets.vllm_ascend import VllmAscend

__all__ = ["TARGETS", "for_pipelines", "known_targets", "serve_command", "targets_named"]

TARGETS: dict[str, Target] = {
    target.name: target for target in (ModelSlim(), MindIE(), VllmAscend(), Vllm(), MindIESD())
}
_KINDS = {False: "language models", True: "transformers of diffusion pipelines"}


def known_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets of these names, without repeats, in the order of `TARGETS`; UsageError for an unknown name."""
    if unknown := [name for name in names if name not in TARGETS]:
        raise UsageError(f"target (--target) {unknown[0]!r}: expected one of {', '.join(TARGETS)}")
    return tuple(target for name, target in TARGETS.items() if name in names)


def for_pipelines(name: str | None) -> bool:
    """Tell whether a target, if it is known, is for transformers of diffusion pipelines."""
    return name in TARGETS and TARGETS[name].pipelines


def serve_command(name: str, folder: Path, attentions: Iterable[bool | None], files: Path | None = None) -> str | None:
    """Return the command that serves the export of a target in `folder`; None if no engine reads the export.

    `attentions` says for each layer whether its attention has FA3 parameters. A run that will move the export gives the
    folder of its `files` now.
    """
    files = files or folder
    if not any(files.glob("*.safetensors")):  # engines read no numpy files
        return None
    return TARGETS[name].serve(Served(Path(os.path.abspath(folder)), files, tuple(attentions)))


def targets_named(names: Sequence[str], *, pipelines: bool = False) -> tuple[Target, ...]:
    """Return the targets to write for a language model, or for the transformer of a diffusion pipeline.

    Without names this is modelslim for a language model, mindie-sd for a transformer. Raises UsageError for an unknown
    name, UnsupportedError for a target that is for the other kind of model.
    """
    chosen = known_targets(names or (DEFAULT_TARGETS[pipelines],))
    for target in chosen:
        if target.pipelines != pipelines:
            suitable = [name for name, other in TARGETS.items() if other.pipelines == pipelines]
            raise UnsupportedError(
                f"target {target.name}: is for {_KINDS[target.pipelines]}, not {_KINDS[pipelines]}",
                hint=f"choose {' or '.join(suitable)}",
            )
    return chosen
