"""Tests that damaged documents of a run are read, or refused with an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fa3cli import api
from fa3cli.comparing.kept import keep_comparison
from fa3cli.comparing.recorded_sampling import recorded_sampling
from fa3cli.errors import ConflictError, Fa3Error, InvalidInputError, StoppedError
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.runs.calibration_folder import read_calibration
from fa3cli.runs.journal import Journal, open_journal
from fa3cli.runs.result import PARAMETERS_FILE, file_sha256, read_result
from tests.comparing.test_kept import FOUND
from tests.mutated import SEEDS, mutated_json, mutated_tensors
from tests.report.exports import layer, report_of
from tests.runs.test_journal import MADE_OF, outputs, visit
from tests.sample_models import WEIGHTS, split_weights, token_ids, write_lines, write_model
from tests.special_files import SPECIAL, put

INDEX = f"{WEIGHTS}.index.json"
REPORT = report_of([layer(0), layer(1, fa=False)])


def require_known_error(read: Callable[[], Any], seed: int) -> None:
    """Read something; only an error of fa3 may be raised."""
    try:
        read()
    except Fa3Error as error:
        assert str(error).encode(), seed


def mutated(file: Path, raw: bytes, seed: int) -> bytes:
    """Return the bytes of a file as they are after a mutation."""
    return mutated_tensors(raw, seed) if file.suffix == ".safetensors" else mutated_json(json.loads(raw), seed)


# ---- the report in an export


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with the report of an export and the files that it names."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / REPORT_FILE).write_text(json.dumps(REPORT))
    return folder


def existing_result(folder: Path) -> object:
    job: Any = SimpleNamespace(destination=folder, targets=(), places={None: Path()})
    return read_result(job, REPORT["identity"])


def test_mutated_reports_raise_only_errors_of_fa3(made: Path) -> None:
    assert existing_result(made)
    text = made / "config.json"
    for seed in SEEDS:
        (made / REPORT_FILE).write_bytes(mutated_json(REPORT, seed))
        require_known_error(lambda: existing_result(made), seed)
        require_known_error(lambda: recorded_sampling(made), seed)
        keep_comparison(made, FOUND, text)


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_report_that_is_not_a_regular_file_is_not_used(kind: str, made: Path) -> None:
    put(kind, made / REPORT_FILE)
    before = sorted(made.iterdir())
    assert existing_result(made) is None
    assert keep_comparison(made, FOUND, made / "config.json")
    with pytest.raises(InvalidInputError, match=REPORT_FILE):
        recorded_sampling(made)
    assert sorted(made.iterdir()) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a\0b", "", "a//b", ".."])
def test_a_report_that_names_files_elsewhere_is_not_used(name: str, made: Path) -> None:
    result = REPORT["result"] | {"files": ["config.json", name]}
    (made / REPORT_FILE).write_text(json.dumps(REPORT | {"result": result}))
    assert existing_result(made) is None


# ---- weights and their index


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4).bfloat16()}, folder / WEIGHTS)
    split_weights(folder, 2)
    return folder


def read_all(folder: Path) -> object:
    return Checkpoint(folder).read(Checkpoint(folder).tensors)


def test_mutated_weights_raise_only_errors_of_fa3(weights: Path) -> None:
    files = sorted(weights.iterdir())
    for seed in SEEDS:
        file = files[seed % len(files)]
        raw = file.read_bytes()
        file.write_bytes(mutated(file, raw, seed))
        require_known_error(lambda: read_all(weights), seed)
        file.write_bytes(raw)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [INDEX, "model-00001-of-00002.safetensors"])
def test_weights_that_are_not_regular_files_are_refused(kind: str, name: str, weights: Path) -> None:
    put(kind, weights / name)
    missing = name == INDEX and kind == "link to itself"
    with pytest.raises(InvalidInputError, match="no weights" if missing else name):
        read_all(weights)


@pytest.mark.parametrize("name", ["a\0b", "", ".", "..", "a/b", "a\\b", "/etc/passwd", 7, None, [], {"a": "b"}])
def test_an_index_entry_without_a_file_in_the_folder_is_refused(name: object, weights: Path) -> None:
    (weights / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InvalidInputError, match=INDEX):
        Checkpoint(weights)


@pytest.mark.parametrize(
    "text", ['{"weight_map": {"a": "\\ud800"}}', '{"weight_map": {"a": "b"}, "weight_map": {"a": "c"}}']
)
def test_an_ambiguous_index_is_refused(text: str, weights: Path) -> None:
    (weights / INDEX).write_text(text)
    with pytest.raises(InvalidInputError, match="not a safetensors index"):
        Checkpoint(weights)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0"])
def test_unsupported_dtypes_are_refused(dtype: str, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InvalidInputError, match="a is torch.float8"):
        read_all(tmp_path)


# ---- the journal of a run


@pytest.fixture
def stopped(tmp_path: Path) -> RunFolder:
    """The folder of a run that was stopped after its second layer."""
    with suppress(StoppedError), RunFolder(tmp_path / "out") as folder:
        open_journal(folder, MADE_OF, "auto")
        journal = Journal(folder)
        for number in range(2):
            journal.commit(visit(number), outputs(number), None)
        raise StoppedError("the test goes on")
    return RunFolder(tmp_path / "out")


def resume_run(folder: RunFolder) -> object:
    open_journal(folder, MADE_OF, "required")
    return Journal(folder).outputs(list(outputs(0)))


def test_mutated_journals_raise_only_errors_of_fa3(stopped: RunFolder) -> None:
    files = [path for path in sorted(stopped.journal.iterdir()) if "states-00000" not in path.name]
    assert resume_run(stopped) and {path.suffix for path in files} == {".json", ".safetensors"}
    for seed in SEEDS:
        file = files[seed % len(files)]
        raw = file.read_bytes()
        file.write_bytes(mutated_tree(raw, seed) if seed % 2 and file.suffix != ".json" else mutated(file, raw, seed))
        require_known_error(lambda: resume_run(stopped), seed)
        file.write_bytes(raw)


def mutated_tree(raw: bytes, seed: int) -> bytes:
    """Return a file of a tree whose description is mutated."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    tree = mutated_json(json.loads(header["__metadata__"]["tree"]), seed)
    header["__metadata__"]["tree"] = tree.decode(errors="replace")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["identity.json", "visit-00001.safetensors", "states-00001.0.safetensors"])
def test_a_journal_with_a_special_file_is_a_conflict(kind: str, name: str, stopped: RunFolder) -> None:
    put(kind, stopped.journal / name)
    with pytest.raises(ConflictError, match=name.partition(".")[0]):
        resume_run(stopped)


# ---- a calibration


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    calib = write_lines(folder / "calib.jsonl", token_ids(9, 5))
    api.calibrate(write_model(folder / f"llama-{folder.name}"), folder / "kept", calib=calib)
    return folder / "kept"


def test_mutated_calibrations_raise_only_errors_of_fa3(kept: Path) -> None:
    assert read_calibration(kept).layers
    report, parameters = kept / REPORT_FILE, kept / PARAMETERS_FILE
    texts = {file: file.read_bytes() for file in (report, parameters)}
    for seed in SEEDS:
        if seed % 2:
            parameters.write_bytes(mutated_tree(texts[parameters], seed))
            known = json.loads(texts[report]) | {"parameters_sha256": file_sha256(parameters)}
            report.write_text(json.dumps(known))
        else:
            report.write_bytes(mutated_json(json.loads(texts[report]), seed))
        try:
            read_calibration(kept)
        except InvalidInputError as error:
            assert str(kept) in str(error), seed
        for file, text in texts.items():
            file.write_bytes(text)


def test_a_calibration_with_an_unknown_setting_is_refused(kept: Path) -> None:
    text = (kept / REPORT_FILE).read_text()
    report = json.loads(text)
    report["identity"]["settings"]["unheard_of"] = 1
    (kept / REPORT_FILE).write_text(json.dumps(report))
    with pytest.raises(InvalidInputError, match="'unheard_of' is not a setting"):
        read_calibration(kept)
    (kept / REPORT_FILE).write_text(text)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [REPORT_FILE, PARAMETERS_FILE])
def test_a_calibration_with_a_special_file_is_refused(kind: str, name: str, kept: Path) -> None:
    text = (kept / name).read_bytes()
    put(kind, kept / name)
    with pytest.raises(InvalidInputError, match="kept"):
        read_calibration(kept)
    put("empty", kept / name)
    (kept / name).write_bytes(text)
