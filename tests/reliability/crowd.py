"""Many processes run commands on one folder at the same time; python -m tests.reliability.crowd SCENES FOLDER SEED."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.reliability.fuzz import import_commands
from tests.reliability.scenes import make_scenes
from tests.reliability.states import state_of
from tests.reliability.watched import run_command, warm_up

__all__ = ["main"]

PATCH, UNDO, CHECK = "patch {w}/model", "patch {w}/model --undo", "patch {w}/model --check"


def main(scenes: str, folder: str, seed: str) -> None:
    """Print one json object: how the commands ended, and what is wrong."""
    make_scenes(Path(scenes), ["plain", "exported"])
    import_commands(light=True)
    work, rng = Path(folder) / "work", random.Random(seed)
    shutil.copytree(Path(scenes) / "plain", work)
    before = state_of(work)
    ended, problems = crowd(work, lambda: [rng.choice([PATCH, UNDO, CHECK]) for _ in range(6)], 16)
    for command in (PATCH, CHECK):  # whatever the last of them did
        code, wrong = run_command(command.format(w=work).split())
        problems += [f"then {command}: {code} {wrong}"] * bool(code)
    run_command(UNDO.format(w=work).split())
    odd = {name for name, what in (state_of(work).items() ^ before.items())}
    problems += [f"after undo: {' '.join(sorted(odd))}"] * bool(odd)

    work = Path(folder) / "reports"
    shutil.copytree(Path(scenes) / "exported", work)
    warm_up(["report", str(work / "out"), "--html", str(Path(folder) / "page.html")], Path(folder) / "warm")
    names = state_of(work).keys()
    more, others = crowd(work, lambda: ["report {w}/out --html {w}/page.html"] * 3, 8)
    odd = state_of(work).keys() ^ names ^ {"page.html"}
    problems += others + [f"beside the report: {' '.join(sorted(odd))}"] * bool(odd)
    if not (work / "page.html").read_text().rstrip().endswith("</html>"):
        problems.append("the page is not whole")
    print(json.dumps({"codes": Counter(ended + more), "problems": problems}), file=sys.__stdout__)


def crowd(work: Path, commands: Callable[[], list[str]], size: int) -> tuple[list[str], list[str]]:
    """Start so many processes at once, each with commands of its own; return exit codes and problems."""
    start, go = os.pipe()
    said, children = work.with_name("said"), []
    said.mkdir(exist_ok=True)
    for number in range(size):
        mine = [command.format(w=work) for command in commands()]
        pid = os.fork()
        if pid == 0:
            os.close(go)
            _take_part(mine, start, said / str(number))
        children.append(pid)
    os.close(start)
    os.close(go)  # which all of them wait for
    problems = [
        f"a process ended with {status}" for status in (os.waitpid(pid, 0)[1] for pid in children) if status
    ]
    ends = [
        line.split(" ", 1) for number in range(size) for line in (said / str(number)).read_text().splitlines()
    ]
    return [code for code, _ in ends], problems + [f"{code} {wrong}" for code, wrong in ends if wrong]


def _take_part(commands: list[str], start: int, told: Path) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.read(start, 1)
    with told.open("w") as file:
        for command in commands:
            code, wrong = run_command(command.split())
            wrong = wrong or ("" if code in (0, 1, 4) else f"unexpected of {command.split('/')[0]}")
            file.write(f"{code} {wrong}\n")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
