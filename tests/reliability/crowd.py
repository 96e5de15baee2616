"""Runs commands of many processes on one folder at once; python -m tests.reliability.crowd SCENES FOLDER SEED."""

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
    """Print one json object: the exit codes of the commands, and the problems."""
    make_scenes(Path(scenes), ["plain", "exported"])
    import_commands(light=True)
    work, rng = Path(folder) / "work", random.Random(seed)
    shutil.copytree(Path(scenes) / "plain", work)
    before = state_of(work)
    codes, problems = crowd(work, lambda: [rng.choice([PATCH, UNDO, CHECK]) for _ in range(6)], 16)
    for command in (PATCH, CHECK):  # must work whatever command was last
        code, problem = run_command(command.format(w=work).split())
        problems += [f"then {command}: {code} {problem}"] * bool(code)
    run_command(UNDO.format(w=work).split())
    odd = {name for name, _ in (state_of(work).items() ^ before.items())}
    problems += [f"after undo: {' '.join(sorted(odd))}"] * bool(odd)

    work = Path(folder) / "reports"
    shutil.copytree(Path(scenes) / "exported", work)
    warm_up(["report", str(work / "out"), "--html", str(Path(folder) / "page.html")], Path(folder) / "warm")
    names = state_of(work).keys()
    report_codes, report_problems = crowd(work, lambda: ["report {w}/out --html {w}/page.html"] * 3, 8)
    odd = state_of(work).keys() ^ names ^ {"page.html"}
    problems += report_problems + [f"beside the report: {' '.join(sorted(odd))}"] * bool(odd)
    if not (work / "page.html").read_text().rstrip().endswith("</html>"):
        problems.append("the page is incomplete")
    print(json.dumps({"codes": Counter(codes + report_codes), "problems": problems}), file=sys.__stdout__)


def crowd(work: Path, commands: Callable[[], list[str]], size: int) -> tuple[list[str], list[str]]:
    """Start `size` processes at once, with commands per process; return exit codes and problems."""
    start, held_open = os.pipe()
    results, children = work.with_name("results"), []
    results.mkdir(exist_ok=True)
    for number in range(size):
        own_commands = [command.format(w=work) for command in commands()]
        pid = os.fork()
        if pid == 0:
            os.close(held_open)
            _run_all(own_commands, start, results / str(number))
        children.append(pid)
    os.close(start)
    os.close(held_open)  # starts all children: their read() of the pipe returns
    problems = [f"a process ended with {status}" for status in (os.waitpid(pid, 0)[1] for pid in children) if status]
    lines = [line for number in range(size) for line in (results / str(number)).read_text().splitlines()]
    pairs = [line.split(" ", 1) for line in lines]
    return [code for code, _ in pairs], problems + [f"{code} {problem}" for code, problem in pairs if problem]


def _run_all(commands: list[str], start: int, result: Path) -> None:
    """Run commands in a child as soon as the pipe `start` is closed, write their results to a file, and exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os.read(start, 1)
    with result.open("w") as file:
        for command in commands:
            code, problem = run_command(command.split())
            problem = problem or ("" if code in (0, 1, 4) else f"unexpected of {command.split('/')[0]}")
            file.write(f"{code} {problem}\n")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
