"""Makes every system call of every command that writes fail or kill the process, and prints the failures.

python -m tests.reliability.faults                                      all cases, on two processes
python -m tests.reliability.faults --share 0.05                         a sample of the cases
python -m tests.reliability.faults --command patch --only kill          the kills of one command
python -m tests.reliability.faults --command patch --case fail:7:ENOSPC one case

Prints a line per failure: the command, the case, the call and the problem. The last line is a summary.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.commands import COMMANDS
from tests.reliability.parts import print_result, results_of_parts, working_folder
from tests.reliability.scenes import make_scenes
from tests.reliability.shim import (
    FAIL,
    FAIL_FROM_HERE,
    KILL_AFTER,
    KILL_BEFORE,
    Call,
    compile_shim,
    errors_of,
)

__all__ = ["main"]

MODES = {FAIL: "fail", FAIL_FROM_HERE: "full", KILL_BEFORE: "kill-before", KILL_AFTER: "kill-after"}


def main() -> int:
    """Read the command line, run the cases, and print the failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", action="append", choices=COMMANDS)
    parser.add_argument("--only", choices=["fail", "kill"])
    parser.add_argument("--share", type=float, default=1.0, help="share of every command's cases")
    parser.add_argument("--case", help="MODE:NUMBER:ERROR, as in a failure's line")
    parser.add_argument("--scenes", type=Path, help="folder that keeps the scenes for the next run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with working_folder() as folder:
        if options.part:
            return _part(options, folder)
        library = compile_shim(folder)
        if library is None:
            print("no C compiler", file=sys.stderr)
            return 3
        scenes = options.scenes or folder / "scenes"
        make_scenes(scenes, {COMMANDS[name].scene for name in options.command or COMMANDS})
        arguments = [*sys.argv[1:], "--scenes", scenes]
        module, preload = "tests.reliability.faults", {"LD_PRELOAD": str(library)}
        return _print_summary(results_of_parts(module, options.processes, arguments, folder, **preload))


def _print_summary(results: Iterator[dict[str, Any]]) -> int:
    """Print the failures and a summary; return whether there were failures."""
    tried, failed, seconds = Counter(), Counter(), Counter()
    for trial in results:
        kind = f"{trial['command']} {'kills' if trial['case'].startswith('kill') else 'faults'}"
        tried[kind] += 1
        seconds[kind] += trial["seconds"]
        if trial["problem"]:
            failed[kind] += 1
            print(f"{trial['command']} {trial['case']}: {trial['call']}: {trial['problem']}", flush=True)
    for kind, count in tried.items():
        print(f"# {kind}: {count} trials, failures {failed[kind]}, {seconds[kind] / count * 1e3:.0f} ms each")
    print(f"{tried.total()} trials, failures {failed.total()}")
    return bool(failed)


def _part(options: argparse.Namespace, folder: Path) -> int:
    """Try this part's share of the cases."""
    from tests.reliability.fuzz import import_commands
    from tests.reliability.trials import CommandTrials

    part, parts = map(int, options.part.split("/"))
    names = options.command or list(COMMANDS)
    for name in sorted(names, key=lambda name: not COMMANDS[name].light):
        import_commands(light=COMMANDS[name].light)
        trials = CommandTrials(COMMANDS[name], options.scenes, folder)
        cases = list(_cases(trials.calls, options))
        if not options.case:
            cases = cases[:: max(1, round(COMMANDS[name].every / options.share))]
        for case in cases[part::parts]:
            begin, call = time.monotonic(), trials.calls[case.number - 1]
            code = f":{errno.errorcode[case.error]}" if case.error else ""
            result = {
                "command": name,
                "case": f"{MODES[case.mode]}:{case.number}{code}",
                "call": f"{call.name} {call.path}",
            }
            problem = (trials.problem(case) or "")[:600]
            print_result({**result, "problem": problem, "seconds": time.monotonic() - begin})
    return 0


def _cases(calls: list[Call], options: argparse.Namespace) -> Iterator:
    from tests.reliability.trials import Case

    if options.case:
        mode, number, *code = options.case.split(":")
        modes = {name: value for value, name in MODES.items()}
        yield Case(modes[mode], int(number), getattr(errno, code[0]) if code else 0)
        return
    for number, call in enumerate(calls, start=1):
        if options.only != "kill":
            yield from (Case(FAIL, number, error) for error in errors_of(call))
            if call.needs_room:
                yield Case(FAIL_FROM_HERE, number, errno.ENOSPC)
        if options.only != "fail" and call.name != "read" and (call.needs_room or not call.name.startswith("open")):
            yield from (Case(KILL_BEFORE, number), Case(KILL_AFTER, number))


if __name__ == "__main__":
    sys.exit(main())
