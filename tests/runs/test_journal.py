"""Tests that a visit exists only when all of it is on the disk, and is read back unchanged."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import Ranks
from fa3cli.errors import ConflictError, StoppedError
from fa3cli.exports.folder import RunFolder
from fa3cli.runs import journal as module
from fa3cli.runs.journal import Journal, NotResumableError, open_journal
from tests.sample_models import snapshot

MADE_OF = {"weights": "a" * 64, "threads": 2, "settings": {"fa": True}}


def visit(number: int) -> LayerParameters:
    """A visit with all its results."""
    one = torch.tensor([float(number)])
    return LayerParameters(
        f"model.layers.{number}",
        linears={"q": (-one, one), "k": (-one, one * 3)},
        attentions={"attn": {role: (-one.repeat(4), one.repeat(4)) for role in "qkv"}},
        scores={"attn": number / 7},
        smoothing={"norm": torch.full((3,), number, dtype=torch.float16)},
        range_params={"q": float("inf"), "k": 0.1 * number},
        unreached=("k",),
        warnings=("wide", "low"),
        error=number / 30 or None,
    )


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, LayerParameters):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, tuple):
        assert type(found) is tuple and len(found) == len(expected)
        for pair in zip(found, expected):
            assert_same(*pair)
    else:
        assert found == expected


def outputs(number: int) -> dict[str, Any]:
    return {"calibration.0": torch.full((2, 3), number), "range_param.0": (torch.ones(number + 1), None)}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with pytest.raises(StoppedError), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, "auto")
        yield folder
        raise StoppedError("the test is over")


def test_visits_are_read_back_unchanged(folder: RunFolder) -> None:
    journal, arguments = Journal(folder), ((torch.ones(2),), {"mask": torch.zeros(3)})
    assert journal.visits == []
    for number in range(4):
        journal.commit(visit(number), outputs(number), arguments)
        again = Journal(folder)
        assert [kept.name for kept in again.visits] == [visit(step).name for step in range(number + 1)]
        for step, found in enumerate(again.visits):
            assert_same(found, visit(step))
        assert_same(tuple(again.outputs(list(outputs(number)))), tuple(outputs(number).values()))
        again.require_same(arguments)
        assert folder.keep


def test_states_of_at_most_two_visits_are_kept(folder: RunFolder) -> None:
    journal = Journal(folder)
    for number in range(6):
        journal.commit(visit(number), outputs(number), None)
        assert len(list(folder.journal.glob("states-*"))) <= 2


def test_missing_outputs_are_a_conflict(folder: RunFolder) -> None:
    journal = Journal(folder)
    journal.commit(visit(0), outputs(0), None)
    with pytest.raises(ConflictError, match="some files states-00000") as raised:
        Journal(folder).outputs(["calibration.0", "calibration.1"])
    assert raised.value.exit_code == 4


def test_other_arguments_are_refused(folder: RunFolder) -> None:
    Journal(folder).commit(visit(0), {}, ((torch.ones(2),), {"mask": torch.zeros(3)}))
    journal = Journal(folder)
    for other in (
        ((torch.ones(2),), {"mask": torch.full((3,), torch.nan)}),
        ((torch.ones(2),), {}),
        ((torch.ones(2, 1),), {"mask": torch.zeros(3)}),
        ((torch.ones(2, dtype=torch.float64),), {"mask": torch.zeros(3)}),
        None,
    ):
        with pytest.raises(NotResumableError, match=r"after model\.layers\.0 .* which a journal does not hold"):
            journal.require_same(other)


def test_arguments_may_be_none(folder: RunFolder) -> None:
    """After the last layer no call waits."""
    Journal(folder).commit(visit(0), {}, None)
    Journal(folder).require_same(None)


def test_an_output_that_cannot_be_stored_ends_the_journal_but_not_the_run(folder: RunFolder) -> None:
    journal = Journal(folder)
    for number in range(2):
        journal.commit(visit(number), {"calibration.0": OrderedDict(a=torch.ones(1))}, None)
    assert len(journal.visits) == 2
    assert Journal(folder).visits == [] and not folder.keep


def test_a_rank_without_samples_ends_its_journal_with_the_others(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its empty outputs could be stored, but it must not wait for ranks that store nothing."""
    monkeypatch.setattr(Ranks, "gather", lambda ranks, value: [value, False])
    journal = Journal(folder, Ranks(0, 2))
    journal.commit(visit(0), {}, None)
    assert Journal(folder).visits == [] and not folder.keep


@pytest.mark.parametrize("calls", range(8))
def test_a_killed_commit_leaves_the_previous_or_the_new_visit(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    journal, left = Journal(folder), iter(range(calls))
    for number in range(3):
        journal.commit(visit(number), outputs(number), None)

    def killed_after(function: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **named: object) -> object:
            if next(left, None) is None:
                raise SystemExit
            return function(*arguments, **named)

        return called

    for holder, name in ((Path, "rename"), (Path, "unlink"), (Path, "open"), (module, "sync")):
        monkeypatch.setattr(holder, name, killed_after(getattr(holder, name)))
    with pytest.raises(SystemExit):
        journal.commit(visit(3), outputs(3), None)
    monkeypatch.undo()
    again = Journal(folder)
    done = len(again.visits)
    assert done in (3, 4)
    assert_same(tuple(again.outputs(list(outputs(0)))), tuple(outputs(done - 1).values()))
    for number in range(done, 6):
        again.commit(visit(number), outputs(number), None)
    for number, found in enumerate(Journal(folder).visits):
        assert_same(found, visit(number))


def test_without_a_folder_visits_are_kept_only_in_memory() -> None:
    journal = Journal()
    journal.commit(visit(0), {"a": object()}, object())
    assert [kept.name for kept in journal.visits] == ["model.layers.0"]


# ---- the journal of an earlier run


def leave_journal(output: Path) -> dict[str, bytes]:
    """Leave a journal with one visit."""
    with pytest.raises(StoppedError), RunFolder(output) as folder:
        open_journal(folder, MADE_OF, "auto")
        Journal(folder).commit(visit(0), {}, None)
        (folder.export / "weights").write_text("half")
        raise StoppedError("asked")
    return snapshot(folder.path)


@pytest.mark.parametrize("resume", ["auto", "required"])
def test_the_same_run_is_resumed(tmp_path: Path, resume: str) -> None:
    before = leave_journal(tmp_path / "out")
    with pytest.raises(StoppedError), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, resume)
        assert snapshot(folder.path) == before
        assert folder.keep
        raise StoppedError("again")
    assert snapshot(folder.path) == before


def test_resume_never_starts_over(tmp_path: Path) -> None:
    leave_journal(tmp_path / "out")
    with pytest.raises(ValueError), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, {"weights": "b" * 64}, "never")
        assert set(snapshot(folder.path)) == {"lock", "visits/identity.json"}
        assert json.loads((folder.journal / "identity.json").read_text()) == {"weights": "b" * 64}
        raise ValueError
    assert not folder.path.exists()


@pytest.mark.parametrize("resume", ["auto", "required"])
def test_another_run_is_refused_and_the_journal_is_kept(tmp_path: Path, resume: str) -> None:
    before = leave_journal(tmp_path / "out")
    other = MADE_OF | {"threads": 1, "settings": {"fa": False}}
    with (
        pytest.raises(ConflictError, match=r"other threads \(2, now 1\), settings\.fa \(True, now False\)$"),
        RunFolder(tmp_path / "out") as folder,
    ):
        open_journal(folder, other, resume)
    assert snapshot(tmp_path / "out.journal") == before


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\udcff"])
def test_an_invalid_identity_is_a_conflict(tmp_path: Path, text: str) -> None:
    leave_journal(tmp_path / "out")
    file = tmp_path / "out.journal" / "visits" / "identity.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with (
        pytest.raises(ConflictError, match="identity.json: not as fa3 wrote it"),
        RunFolder(tmp_path / "out") as f,
    ):
        open_journal(f, MADE_OF, "auto")
    assert file.exists()


def test_resume_required_is_refused_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="nothing there to resume"), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, "required")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["export", "visits/identity.json", "visits/visit-00000.safetensors"])
def test_an_incomplete_journal_is_not_continued(tmp_path: Path, lost: str) -> None:
    leave_journal(tmp_path / "out")
    part = tmp_path / "out.journal" / lost
    part.rename(tmp_path / "lost")
    with pytest.raises(ValueError), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, "auto")
        assert Journal(folder).visits == [] and not any(folder.export.iterdir())
        raise ValueError


def test_a_broken_record_is_a_conflict(tmp_path: Path) -> None:
    leave_journal(tmp_path / "out")
    record = tmp_path / "out.journal" / "visits" / "visit-00000.safetensors"
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(ConflictError, match="not as fa3 wrote it"), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, "auto")
        Journal(folder)
    assert record.exists()
