"""Runs commands on documents with random changes, and prints the failures.

python -m tests.reliability.fuzz                                        20,000 inputs, on two processes
python -m tests.reliability.fuzz --share 0.02                           the first inputs of every reader
python -m tests.reliability.fuzz --reader NAME --seed N --count M       M inputs of one reader
python -m tests.reliability.fuzz --reader NAME --seed N --keep FOLDER   one input; its files and output are kept

Prints a line per failure: the reader, the input's seed and the problem. The last line is a summary.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.parts import print_result, results_of_parts, working_folder
from tests.reliability.readers import READERS
from tests.reliability.scenes import make_scenes

__all__ = ["import_commands", "main"]


def main() -> int:
    """Read the command line, run the inputs, and print the failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", action="append", choices=READERS, help="a name of the table in readers.py")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first input")
    parser.add_argument("--count", type=int, help="number of inputs per reader")
    parser.add_argument("--share", type=float, default=1.0, help="share of every reader's inputs")
    parser.add_argument("--scenes", type=Path, help="folder that keeps the scenes for the next run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="run one input in this folder and keep all files")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with working_folder() as folder:
        if options.part:
            return _part(options, folder)
        scenes = options.scenes or folder / "scenes"
        make_scenes(scenes, {READERS[name].scene for name in options.reader or READERS})
        arguments = [*sys.argv[1:], "--scenes", scenes]
        parts = 1 if options.keep else options.processes
        return _print_summary(results_of_parts("tests.reliability.fuzz", parts, arguments, folder))


def _print_summary(outcomes: Iterator[dict[str, Any]]) -> int:
    """Print the failures, their kinds and a summary; return whether there were failures."""
    codes, kinds, seconds = defaultdict(Counter), defaultdict(list), Counter()
    for outcome in outcomes:
        name, seed, failure = outcome["reader"], outcome["seed"], outcome["failure"]
        codes[name][outcome["code"]] += 1
        seconds[name] += outcome["seconds"]
        if failure:
            print(f"{name} {seed}: {failure}", flush=True)
            kinds[f"{name}: {failure.partition(': ')[0]}"].append(seed)
    for name, counted in codes.items():
        number = counted.total()
        print(f"# {name}: {number} inputs, codes {_text(counted)}, {seconds[name] / number * 1e3:.0f} ms each")
    for kind, seeds in sorted(kinds.items()):
        print(f"# {kind}: {len(seeds)} failures, the first is {min(seeds)}")
    total = sum(codes.values(), Counter())
    print(f"{total.total()} inputs, codes {_text(total)}, failures {sum(map(len, kinds.values()))}")
    return bool(kinds)


def _text(codes: Counter[int]) -> str:
    return "{" + ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())) + "}"


def _part(options: argparse.Namespace, folder: Path) -> int:
    """Run this part's share of the inputs; readers without torch come first, before this process imports torch."""
    from tests.reliability.judged import judge, try_valid

    number, parts = map(int, options.part.split("/"))
    names, tried = options.reader or list(READERS), set()
    for light in (True, False):
        chosen = [name for name in names if READERS[name].light == light]
        if chosen:
            import_commands(light=light)
        for name in chosen:
            count = options.count or (1 if options.keep else max(1, round(READERS[name].count * options.share)))
            valid = READERS[name].scene, READERS[name].command
            if valid not in tried:
                try_valid(name, options.scenes, folder / "place")
                tried.add(valid)
            for seed in range(options.seed, options.seed + count):
                if seed % parts == number or options.keep:
                    place = options.keep or folder / "place"
                    outcome = judge(name, seed, options.scenes, place, keep=bool(options.keep))
                    print_result(vars(outcome))
    shutil.rmtree(folder / "place", ignore_errors=True)
    return 0


def import_commands(*, light: bool) -> None:
    """Import the modules that the commands need, once for all forked children."""
    import typer

    import fa3cli.cli.app
    import fa3cli.patching

    if isinstance(fa3cli.cli.app.app, typer.Typer):  # typer would build its commands again on every call
        fa3cli.cli.app.app = typer.main.get_command(fa3cli.cli.app.app)
    if not light:
        import torch

        import fa3cli.api
        import fa3cli.exports.verification
        import fa3cli.report.data
        import fa3cli.report.page

        torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
