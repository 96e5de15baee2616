"""Lets a child run one input and judges it: exit code, traceback, time, memory, and what it opened."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.documents import mutate
from tests.reliability.forked import forked
from tests.reliability.odd_files import LINKED
from tests.reliability.readers import READERS, Reader
from tests.reliability.sources import HOSTILE
from tests.reliability.states import state_of
from tests.reliability.values import CANARY
from tests.reliability.watched import limit, run_command, warm_up, watch

__all__ = ["Outcome", "judge", "lay", "try_valid"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input; a `failure` says what the command should not have done."""

    reader: str
    seed: int
    code: int
    failure: str
    seconds: float


def try_valid(name: str, scenes: Path, place: Path) -> None:
    """Run a reader's command on its valid folder in this process; raises RuntimeError where it does not end well."""
    shutil.rmtree(place, ignore_errors=True)
    lay(scenes / READERS[name].scene, place / "work")
    said = place / "said"
    code, wrong = warm_up(READERS[name].command.format(w=place / "work").split(), said)
    if code or wrong:
        raise RuntimeError(f"{name}: its valid folder: {code} {wrong}: {said.read_text()}")


def judge(name: str, seed: int, scenes: Path, place: Path, *, keep: bool = False) -> Outcome:
    """Make input number `seed` of a reader in the folder `place`, run its command there, and judge that.

    Number -1 is the valid one.
    """
    reader, work = READERS[name], place / "work"
    shutil.rmtree(place, ignore_errors=True)
    lay(scenes / reader.scene, work)
    if seed >= 0:
        rng = random.Random(f"{name} {seed}")
        documents = sorted(file for pattern in reader.documents for file in work.glob(pattern))
        mutate(rng.choice(documents), reader.form, rng)
        for folder in work.glob("*/.fa3"):
            with suppress(OSError):
                folder.rmdir()  # an empty one is what a killed run leaves; whatever comes next removes it
    os.environ["FA3_CANARY"] = str(work / CANARY)
    outside = [state_of(work / folder) for folder in (LINKED, CANARY)]
    begin = time.monotonic()

    def child() -> tuple[int, str]:
        limit()
        seen = watch(work, work / CANARY)
        code, wrong = run_command(reader.command.format(w=work).split())
        return code, wrong or "; ".join(dict.fromkeys(seen))

    before = _marks(work)
    code, wrong = forked(child, place / "said")
    said = (place / "said").read_text(errors="replace")
    wrong = wrong or _wrong_end(reader, code, said)
    if not wrong and outside != [state_of(work / folder) for folder in (LINKED, CANARY)]:
        wrong = "wrote outside the model's folder"
    if (
        not wrong
        and code > 1
        and reader.only_reads_then
        and (odd := dict(_marks(work).items() ^ before.items()))
    ):
        wrong = f"exit code {code}, but wrote {' '.join(sorted(odd))}"
    if not keep:
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(name, seed, code, wrong[:600], time.monotonic() - begin)


def _wrong_end(reader: Reader, code: int, said: str) -> str:
    """Say what is wrong with an exit code and what was printed."""
    if not (0 <= code <= 6 or code in (75, 130)):
        return f"exit code {code}"
    if code == 1 and not reader.finds:
        return "exit code 1 of a command that finds nothing"
    if "Traceback" in said or "Exception ignored" in said:
        return f"a traceback was printed: {said.strip()[-200:]!a}"
    return f"exit code {code} without a word" if code and not said.strip() else ""


def _marks(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return every name below a folder with what changes when it is written; a file may be too large to be read."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def lay(scene: Path, work: Path) -> None:
    """Copy a scene, and put beside it what nobody may open."""
    shutil.copytree(scene, work, symlinks=True)
    (work / LINKED).mkdir()
    (work / CANARY).mkdir()
    (work / "x").write_text("outside the model's folder\n")
    for file in ("x.py", "x.json", "x--x.py"):
        (work / CANARY / file).write_text(HOSTILE)
    (work / CANARY / "model.safetensors").write_bytes(b"\x02" + b"\x00" * 7 + b"{}")
