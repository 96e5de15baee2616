"""The engines an export can be written for, by the name `--target` takes."""

from __future__ import annotations

from collections.abc import Sequence

from fa3cli.errors import UsageError
from fa3cli.exports.targets.mindie import MindIE
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.target import Target
from fa3cli.exports.targets.vllm import Vllm
from fa3cli.exports.targets.vllm_ascend import VllmAscend

__all__ = ["TARGETS", "targets_named"]

TARGETS: dict[str, Target] = {target.name: target for target in (ModelSlim(), MindIE(), VllmAscend(), Vllm())}


def targets_named(names: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets of these names, each once, in the order of `TARGETS`; without any, modelslim."""
    if unknown := [name for name in names if name not in TARGETS]:
        raise UsageError(f"target (--target) {unknown[0]!r}: expected one of {', '.join(TARGETS)}")
    return tuple(target for name, target in TARGETS.items() if name in (names or ("modelslim",)))
