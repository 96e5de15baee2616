"""One trial: a command is hindered at one of its system calls, and what it leaves is judged, as is the same command again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.commands import Command
from tests.reliability.forked import KILLED, forked
from tests.reliability.shim import COUNT, FAIL, FAIL_FROM_HERE, Call, arm, disarm
from tests.reliability.states import State, difference, state_of
from tests.reliability.watched import run_command, warm_up

__all__ = ["Case", "Place"]


@dataclass(frozen=True)
class Case:
    """The `number`-th call fails with an error, or ends the process, as `mode` says."""

    mode: int
    number: int
    error: int = 0


class Place:
    """A command at one place of the disk, and what it makes there when nothing hinders it."""

    def __init__(self, command: Command, scenes: Path, folder: Path) -> None:
        self.command, self._scene = command, scenes / command.scene
        self.work, self._said = folder / "work", folder / "said"
        self._lay()
        self.before = self._state()
        warm_up(command.arguments.format(w=self.work).split(), self._said)
        self._lay()
        log = folder / "calls"
        code, wrong = self._run(
            lambda: arm(self._watched(), COUNT, log=os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        )
        if code or wrong:
            raise RuntimeError(
                f"{command.arguments}: not hindered it ends with {code} {wrong} {self._words()}"
            )
        self.complete = self._state()
        lines = (line.split(" ", 2) for line in log.read_text().splitlines())
        self.calls = [Call(name, path, room == "1") for name, room, path in lines]

    def problem(self, case: Case) -> str | None:
        """Run the command hindered and then again; return the first thing that is wrong."""
        self._lay()
        code, wrong = self._run(lambda: arm(self._watched(), case.mode, case.number, case.error))
        killed = case.mode not in (FAIL, FAIL_FROM_HERE)
        if killed:
            if wrong not in ("", KILLED):
                return f"before the kill: {wrong}"
        elif found := self._wrong_end(case, code, wrong):
            return found
        if self.command.undo and case.number % 2:
            return self._undone("undone at once")
        code, wrong = self._run()
        if code or wrong:
            return f"again: {code} {wrong} {self._words()}"
        if found := difference(self._state(journal=True), self.complete):
            return f"again: {found}"
        return self._undone("undone") if self.command.undo else None

    def _wrong_end(self, case: Case, code: int, wrong: str) -> str | None:
        if wrong or not 0 <= code <= 6:
            return wrong or f"exit code {code}"
        said, state = self._words(), self._state()
        if "Traceback" in said or "Exception ignored" in said:
            return f"a traceback was printed: {said}"
        if code and "error" not in said and code != 1:
            return f"exit code {code} without a word: {said}"
        if code == 0 and self.command.excuse and self.command.excuse in said:
            odd = state.keys() - self.complete.keys()
            return f"left: {' '.join(sorted(odd))}" if odd else None
        if code == 0:
            found = difference(state, self.complete)
            return found and f"exit code 0, but {found}"
        stays_full = self.command.replaces and case.mode == FAIL_FROM_HERE
        if state not in (self.before, self.complete) and not stays_full:
            return f"exit code {code}, neither as before ({difference(state, self.before)}) nor complete ({difference(state, self.complete)})"
        return None

    def _undone(self, when: str) -> str | None:
        code, wrong = self._run(arguments=self.command.undo)
        if code or wrong:
            return f"{when}: {code} {wrong} {self._words()}"
        found = difference(self._state(journal=True), self.before)
        return found and f"{when}: {found}"

    def _run(
        self, prepare: Callable[[], None] = lambda: None, arguments: str | None = None
    ) -> tuple[int, str]:
        def child() -> tuple[int, str]:
            given = (arguments or self.command.arguments).format(w=self.work).split()
            prepare()
            found = run_command(given)
            disarm()
            return found

        return forked(child, self._said)

    def _lay(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._scene, self.work, symlinks=True)

    def _watched(self) -> Path:
        return self.work / self.command.watched if self.command.watched else self.work

    def _words(self) -> str:
        return " ".join(self._said.read_text(errors="replace").split())

    def _state(self, *, journal: bool = False) -> State:
        left = self.command.journal if not journal else None
        return {name: what for name, what in state_of(self.work).items() if name.partition("/")[0] != left}
