"""Runs trials: one system call of a command fails or kills it; judges the result, and then the same command again."""

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

__all__ = ["Case", "CommandTrials"]


@dataclass(frozen=True)
class Case:
    """The `number`-th call fails with an error or kills the process, as `mode` says."""

    mode: int
    number: int
    error: int = 0


class CommandTrials:
    """Trials of one command in one folder, and the state that the command makes without a fault."""

    def __init__(self, command: Command, scenes: Path, folder: Path) -> None:
        self.command, self._scene = command, scenes / command.scene
        self.work, self._output_file = folder / "work", folder / "output"
        self._reset()
        self.before = self._state()
        warm_up(command.arguments.format(w=self.work).split(), self._output_file)
        self._reset()
        log = folder / "calls"
        code, problem = self._run(
            lambda: arm(self._watched(), COUNT, log=os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        )
        if code or problem:
            raise RuntimeError(f"{command.arguments}: without a fault it ends with {code} {problem} {self._output()}")
        self.complete = self._state()
        lines = (line.split(" ", 2) for line in log.read_text().splitlines())
        self.calls = [Call(name, path, room == "1") for name, room, path in lines]

    def problem(self, case: Case) -> str | None:
        """Run the command with a fault, then again without; return the first problem."""
        self._reset()
        code, problem = self._run(lambda: arm(self._watched(), case.mode, case.number, case.error))
        killed = case.mode not in (FAIL, FAIL_FROM_HERE)
        if killed:
            if problem not in ("", KILLED):
                return f"before the kill: {problem}"
        elif problem := self._fault_problem(case, code, problem):
            return problem
        if self.command.undo and case.number % 2:
            return self._undo_problem("undone at once")
        code, problem = self._run()
        if code or problem:
            return f"again: {code} {problem} {self._output()}"
        if differing := difference(self._state(journal=True), self.complete):
            return f"again: {differing}"
        return self._undo_problem("undone") if self.command.undo else None

    def _fault_problem(self, case: Case, code: int, problem: str) -> str | None:
        """Return what is wrong after a failed call: the folder must be unchanged or complete."""
        if problem or not 0 <= code <= 6:
            return problem or f"exit code {code}"
        output, state = self._output(), self._state()
        if "Traceback" in output or "Exception ignored" in output:
            return f"a traceback was printed: {output}"
        if code and "error" not in output and code != 1:
            return f"exit code {code} without an error message: {output}"
        from_before, from_complete = difference(state, self.before), difference(state, self.complete)
        if code == 0 and self.command.excuse and self.command.excuse in output:
            odd = state.keys() - self.complete.keys()
            return f"left: {' '.join(sorted(odd))}" if odd else None
        if code == 0:
            return from_complete and f"exit code 0, but {from_complete}"
        stays_full = self.command.replaces and case.mode == FAIL_FROM_HERE
        if from_before and from_complete and not stays_full:
            return f"exit code {code}, neither as before ({from_before}) nor complete ({from_complete})"
        return None

    def _undo_problem(self, when: str) -> str | None:
        code, problem = self._run(arguments=self.command.undo)
        if code or problem:
            return f"{when}: {code} {problem} {self._output()}"
        differing = difference(self._state(journal=True), self.before)
        return differing and f"{when}: {differing}"

    def _run(self, prepare: Callable[[], None] = lambda: None, arguments: str | None = None) -> tuple[int, str]:
        def child() -> tuple[int, str]:
            words = (arguments or self.command.arguments).format(w=self.work).split()
            prepare()
            result = run_command(words)
            disarm()
            return result

        return forked(child, self._output_file)

    def _reset(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._scene, self.work, symlinks=True)

    def _watched(self) -> Path:
        return self.work / self.command.watched if self.command.watched else self.work

    def _output(self) -> str:
        return " ".join(self._output_file.read_text(errors="replace").split())

    def _state(self, *, journal: bool = False) -> State:
        left_out = self.command.journal if not journal else None
        state = state_of(self.work)
        return {name: content for name, content in state.items() if name.partition("/")[0] != left_out}
