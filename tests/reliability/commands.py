"""Lists the commands that write, with the scene that each runs in and the command that undoes it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """A command; every system call that it makes below `watched` is a case that fails or kills it once."""

    scene: str
    arguments: str
    watched: str = ""
    undo: str | None = None
    """The command that restores the folder."""
    journal: str | None = None
    """The folder that an unfinished run may leave, so that the same command can resume."""
    light: bool = False
    every: int = 1
    """A full run takes every n-th case only."""
    excuse: str = ""
    """Words in the output that explain an incomplete result with exit code 0."""
    replaces: bool = False
    """Whether it removes files before it writes new ones: on a disk that stays full it cannot restore them."""


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
        excuse="not saved",
    ),
    "calibrate": Command("ready", f"calibrate {{w}}/model --output {{w}}/kept {_CALIB}", journal="kept.journal"),
    "export": Command("calibrated", "export {w}/model --calibration {w}/kept --output {w}/out", journal="out.journal"),
    "quantize": Command("ready", f"quantize {{w}}/model --output {{w}}/out {_CALIB}", journal="out.journal", every=7),
}
