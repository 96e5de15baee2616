"""Tests that comparison runs survive crashes and are not repeated, and that the table keeps older measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patching.matrix.environments import ROOT, run_types, variables
from tests.patching.matrix.outcomes import Outcome, Version, outcome, read, write
from tests.patching.matrix.reversal import Files
from tests.patching.matrix.table import render

WORKER = """
import json, os, sys
from pathlib import Path
results, *types = sys.argv[1:]
for name in types:
    print(name, flush=True)
    if name == "signal":
        os.abort()
    if name == "exit":
        os._exit(3)
    Path(results, name + ".json").write_text(json.dumps({"pid": os.getpid()}))
"""
RUN = {"own": True, "errors": {}, "doubts": []}
EQUAL = Outcome("equal", "own", checks=40)
MEASURED = {
    "4.43.1": Version({"llama": EQUAL, "xlnet": Outcome("refused", "own", "relative attention")}, Files(261, 165)),
    "5.0.0": Version({"llama": EQUAL, "apertus": Outcome("unmade", reason="no data"), "xlnet": EQUAL}),
}


def test_a_run_continues_after_types_that_end_the_process(tmp_path: Path) -> None:
    types, told = ["a", "signal", "b", "exit", "c"], []
    call = [sys.executable, "-c", WORKER, str(tmp_path)]
    run_types(call, types, tmp_path, tmp_path / "log", lambda *entry: told.append(entry))
    found = {model_type: json.loads((tmp_path / f"{model_type}.json").read_text()) for model_type in types}
    assert [name for name, _ in told] == types
    assert [model_type for model_type in types if "error" in found[model_type]] == ["signal", "exit"]
    assert len({found[letter]["pid"] for letter in "abc"}) == 3


def test_a_run_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="log"):
        run_types([sys.executable, "-c", "nonsense"], ["a"], tmp_path, tmp_path / "log", print)


@pytest.mark.parametrize(
    ("native", "patched", "expected"),
    [
        ({"error": "no such key (auto.py:12)"}, {}, Outcome("unmade", "unknown", "no such key")),
        ({"eager": {**RUN, "errors": {"plain": "no"}}, "parts": []}, {}, Outcome("unmade", "unknown", "no")),
        ({"eager": RUN, "parts": []}, {"checks": {"a": None, "b": None}}, Outcome("equal", "own", checks=2)),
        (
            {"eager": RUN, "parts": []},
            {"checks": {"a": None, "b": "1 != 2"}},
            Outcome("wrong", "own", "b: 1 != 2"),
        ),
        ({"eager": RUN, "parts": []}, {"error": "it fell"}, Outcome("wrong", "own", "it fell")),
        (
            {"eager": {**RUN, "doubts": ["scaling changes nothing"]}, "parts": []},
            {"checks": {"a": None}},
            Outcome("unproven", "own", "scaling changes nothing"),
        ),
        (
            {"eager": {**RUN, "own": False}, "parts": []},
            {"refused": "/usr/lib/m/modeling_m.py:12: several kinds [MAttention]"},
            Outcome("refused", "none", "several kinds [MAttention]"),
        ),
        (
            {"eager": RUN, "parts": ["text_config"]},
            {"checks": {"a": None}},
            Outcome("equal", "composite", checks=1),
        ),
    ],
)
def test_the_verdict_follows_from_both_sides(native: dict, patched: dict, expected: Outcome) -> None:
    assert outcome(native, patched) == expected


def test_measured_outcomes_are_written_and_read_back(tmp_path: Path) -> None:
    write(tmp_path / "kept.json", dict(reversed(MEASURED.items())))
    assert read(tmp_path / "kept.json") == MEASURED
    assert list(read(tmp_path / "kept.json")) == ["4.43.1", "5.0.0"]
    assert read(tmp_path / "nothing.json") == {}


def test_the_table_counts_and_gives_reasons() -> None:
    page = render(MEASURED)
    assert "| 4.43.1 | 2 | 0 | 0 | 0 | 2 | 1 | 50.0 % | 1 | 0 |" in page
    assert "| 5.0.0 | 3 | 1 | 0 | 0 | 2 | 2 | 100.0 % | 0 | 0 |" in page
    assert "| 4.43.1 | 261 | 165 | 0 |" in page
    assert "| xlnet | refused | 40 |" in page
    assert "- xlnet (4.43.1): relative attention" in page
    assert "| apertus |  | – |" in page


@pytest.mark.versions
def test_a_type_with_unchanged_inputs_is_not_run_again(tmp_path: Path) -> None:
    def run(side: str) -> dict:
        call = [
            sys.executable,
            "-m",
            "tests.patching.matrix.side",
            side,
            str(tmp_path),
            "no_such_type",
            "gpt_neox",
        ]
        subprocess.run(call, env=variables(tmp_path / "modules"), cwd=ROOT, capture_output=True, check=True)
        assert "KeyError" in json.loads((tmp_path / side / "no_such_type.json").read_text()).get("error", "KeyError")
        return json.loads((tmp_path / side / "gpt_neox.json").read_text())

    first = [run("native"), run("patched")]
    assert not any(first[1]["checks"].values())
    marked = [{**result, "marked": True} for result in first]
    for side, result in zip(("native", "patched"), marked):
        (tmp_path / side / "gpt_neox.json").write_text(json.dumps(result))
    assert [run("native"), run("patched")] == marked
