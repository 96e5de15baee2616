"""The commands that write, each in a scene, and what takes it back."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """A command whose every system call below `watched` fails once; the sample takes every n-th case of all."""

    scene: str
    arguments: str
    watched: str = ""
    undo: str | None = None
    """The command that makes the folder what it was before."""
    journal: str | None = None
    """Where an unfinished run may leave what it has, for the same command to go on from."""
    light: bool = False
    every: int = 1
    """In a full run, take every n-th case only."""
    excuse: str = ""
    """Words in the output that explain why exit code 0 did not make all that it makes otherwise."""
    replaces: bool = False
    """Takes something out before it puts something else in: a disk that stays full has no room to put it back."""


_UNDO = "patch {w}/model --undo"
_CALIB = "--calib {w}/calib.jsonl --recipe default"

COMMANDS: dict[str, Command] = {
    "patch": Command("plain", "patch {w}/model", undo=_UNDO, light=True),
    "patch-output": Command("plain", "patch {w}/model --output {w}/out", light=True),
    "repatch": Command("patched", "patch {w}/model --quantizer msmodelslim", light=True, replaces=True),
    "undo": Command("patched", _UNDO, light=True),
    "patch-pipeline": Command("pipeline", "patch {w}/model", undo=_UNDO, light=True),
    "undo-pipeline": Command("patched-pipeline", _UNDO, light=True),
    "report": Command("exported", "report {w}/out --html {w}/page.html", excuse="cannot be read"),
    "compare": Command(
        "exported",
        "verify {w}/out --against {w}/model --eval {w}/calib.jsonl",
        watched="out",
        excuse="not kept",
    ),
    "calibrate": Command(
        "ready", f"calibrate {{w}}/model --output {{w}}/kept {_CALIB}", journal="kept.journal"
    ),
    "export": Command(
        "calibrated", "export {w}/model --calibration {w}/kept --output {w}/out", journal="out.journal"
    ),
    "quantize": Command(
        "ready", f"quantize {{w}}/model --output {{w}}/out {_CALIB}", journal="out.journal", every=7
    ),
}
