"""Kills runs at random moments, resumes them, and compares their exports with an uninterrupted run's.

python -m tests.runs.kills FOLDER KILLS SEED    one json object on stdout: what was done, and what went wrong

A separate process, because it forks the runs that it kills: everything is imported once, with one thread. Every tenth
kill is of a fresh `fa3 quantize`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fa3cli import api
from tests.sample_models import snapshot, token_ids, write_lines, write_model

OPTIONS: list[dict[str, Any]] = [
    {"part_file_size": 0.0001},
    {"anti_method": "m4", "disable_level": "L3", "act_method": 3, "disable_last_linear": False},
    {"save_types": ["numpy"], "numerics": "reference", "anti_method": "m2"},
    {"save_types": ["safe_tensor", "numpy"], "fa_amp": 1, "fa_score": "error", "part_file_size": 0.00005},
]
# A run is killed when one of these files appears: at the start, between two layers, while it finishes and publishes.
SIGHTS = [
    "out.journal/visits/identity.json",
    "out.journal/visits/states-00000.0.safetensors.part0",
    "out.journal/visits/visit-00000.safetensors",
    "out.journal/visits/states-00002.0.safetensors",
    "out.journal/visits/visit-00003.safetensors",
    "out.journal/export/*-of-*.safetensors",
    "out.journal/*/quant_model_weight_w8a8.safetensors",
    "out.journal/export/quant_model_description.json",
    "out.journal/export/config.json",
    "out.journal/export/quant_weight.npy",
    "out.journal/export/fa3_report.json",
    "out/config.json",
]
# Its moment is short: a run ends soon after it publishes. Every fifth run that is to be killed waits for it.
PUBLISHED = SIGHTS[-1]
OF_THE_COMMAND = 1  # the options that _fresh has
LAYERS = 4


class Kills:
    """A model, calibration data, and for each set of options the export of an uninterrupted run."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.output, self.journal = root / "out", root / "out.journal"
        self.model = write_model(root / f"killed-{root.name}", num_hidden_layers=LAYERS, dtype=torch.float16)
        self.calib = write_lines(root / "calib.jsonl", token_ids(9, 17, 5, 31))
        self.whole: dict[int, dict[str, bytes]] = {}
        self.seconds: dict[int, float] = {}
        self.done, self.problems, self.attempts = Counter(), [], 0

    def run(self, kills: int) -> None:
        """Kill this many runs, up to three in a row before one may end."""
        while self.done["kills"] < kills:
            fresh = self.done["kills"] >= 10 * (self.done["fresh"] + 1) - 3
            number = OF_THE_COMMAND if fresh else self.random.randrange(min(len(OPTIONS), kills // 6))
            self._prepare(number)
            for again in range(self.random.randint(1, 3)):
                anew = fresh and not again
                self.done["fresh"] += anew
                if not self._kill(number, self._fresh() if anew else self._forked(number)):
                    break
            self._compare(number)

    def _prepare(self, number: int) -> None:
        if number not in self.whole:
            begin = time.monotonic()
            self._end(self._forked(number))
            self.seconds[number] = time.monotonic() - begin
            self.whole[number] = snapshot(self.output)
            shutil.rmtree(self.output)

    def _forked(self, number: int) -> int:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(self.root / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            try:
                options = {"recipe": "default", "calib": self.calib} | OPTIONS[number]
                api.quantize(self.model, output=self.output, **options)
                os._exit(0)
            except BaseException as error:  # noqa: BLE001  # whatever it is, it is the parent that tells
                os.write(2, repr(error).encode())
                os._exit(1)
        return pid

    def _fresh(self) -> int:
        """Start `fa3 quantize`, and wait until it is at work."""
        command = [sys.executable, "-m", "fa3cli", "quantize", self.model, "--recipe", "default"]
        command += ["--calib", self.calib, "--output", self.output]
        command += ["--anti-method", "m4", "--disable-level", "L3", "--act-method", "3"]
        command += ["--no-disable-last-linear"]
        with (self.root / "stderr").open("w") as stderr:
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        lock = self.journal / "lock"
        before = lock.stat().st_mtime_ns if lock.exists() else 0
        while run.poll() is None and not (lock.exists() and lock.stat().st_mtime_ns != before):
            time.sleep(0.001)
        run.returncode = 0  # the child must be waited for
        return run.pid

    def _kill(self, number: int, pid: int) -> bool:
        """Kill a run at some moment; tell whether its work remains for another run."""
        options = OPTIONS[number]
        never = {
            ".npy": "numpy" not in options.get("save_types", ()),
            "-of-": "part_file_size" not in options,
            "8.safetensors": "part_file_size" in options,
        }
        sights = [
            sight
            for sight in SIGHTS
            if not self._seen(sight)  # an earlier run may have got further
            and not any(never_seen and part in sight for part, never_seen in never.items())
        ]
        self.attempts += 1
        if PUBLISHED in sights and self.attempts % 5 == 0:
            while not self._seen(PUBLISHED) and _runs(pid):
                pass
        elif sights and self.random.random() < 0.6:
            sight = self.random.choice(sights)
            while not self._seen(sight) and _runs(pid):
                pass
            time.sleep(self.random.choice([0, 0, 0.001, 0.003]))
        else:
            time.sleep(self.random.random() * self.seconds[number])
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            self.done["ended before"] += 1
            if status:
                self._problem(number, "a run failed")
            return False
        self.done["kills"] += 1
        self.done["published"] += self.output.exists()
        self.done["with visits"] += self._seen("out.journal/visits/visit-*")
        self.done["finishing"] += self._seen("out.journal/export/*.json")
        return not self.output.exists()

    def _seen(self, sight: str) -> bool:
        try:
            return any(self.root.glob(sight))
        except FileNotFoundError:  # a folder was removed while it was listed
            return False

    def _end(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        if status:
            self._problem(-1, f"a run that was not killed ended with {status}")

    def _compare(self, number: int) -> None:
        self._end(self._forked(number))
        self.done["compared"] += 1
        found, whole = snapshot(self.output) if self.output.is_dir() else {}, self.whole[number]
        differing = [name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name)]
        if differing:
            self._problem(number, f"differing: {', '.join(differing)}")
        if self.journal.exists():
            self._problem(number, "its journal is left")
        for folder in (self.output, self.journal):
            shutil.rmtree(folder, ignore_errors=True)

    def _problem(self, number: int, what: str) -> None:
        told = (self.root / "stderr").read_text(errors="replace")[-2000:]
        self.problems.append(f"kill {self.done['kills']}, options {number}: {what}; {told}")


def _runs(pid: int) -> bool:
    """Tell whether a child has not ended, and leave it to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def main(folder: str, kills: str, seed: str) -> None:
    """Kill runs, and print the results."""
    torch.set_num_threads(1)
    all_of_it = Kills(Path(folder), int(seed))
    all_of_it.run(int(kills))
    print(json.dumps({**all_of_it.done, "problems": all_of_it.problems}))


if __name__ == "__main__":
    main(*sys.argv[1:])
