import json

import pytest

from fa3cli.errors import ConflictError
from fa3cli.patching import patch, plan, status, undo
from fa3cli.patching.edits import Edit, reverse
from fa3cli.patching.receipt import RECEIPT, Change, Options, Receipt, read_receipt
from tests.patching.conftest import snapshot

CHANGE = Change("a", "b", (Edit(3, "x", "é\r\n"),))
OPTIONS = Options(("A",), "/given.py", rules="/rules")
SAMPLE = Receipt(
    "0.1",
    1,
    "4.43.1",
    OPTIONS,
    "/s.py",
    "m.py",
    CHANGE,
    CHANGE,
    {"AutoConfig": "c.C"},
    None,
    {"a.toml": "12"},
)


def write(folder, text: str) -> None:
    (folder / RECEIPT).parent.mkdir()
    (folder / RECEIPT).write_bytes(text.encode())


def test_a_receipt_reads_back_as_written(tmp_path) -> None:
    write(tmp_path, SAMPLE.to_json())
    assert read_receipt(tmp_path) == SAMPLE


def test_no_receipt_is_none(tmp_path) -> None:
    assert read_receipt(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", *(SAMPLE.to_json().replace(f'"{key}"', '"x"') for key in ("rules", "quantizer"))]
)
def test_a_broken_receipt_is_a_conflict(tmp_path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConflictError, match="not a receipt"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("module", ["../m.py", "/m.py", "a/m.py", "config.json"])
def test_a_receipt_cannot_point_out_of_its_folder(tmp_path, module: str) -> None:
    write(tmp_path, json.dumps({**json.loads(SAMPLE.to_json()), "module": module}))
    with pytest.raises(ConflictError, match="outside"):
        read_receipt(tmp_path)


def test_a_receipt_with_other_edits_between_the_same_texts_is_read_checked_and_undone(weights) -> None:
    before = snapshot(weights)
    made = plan(weights)
    patch(weights)
    path = weights / RECEIPT
    data = json.loads(path.read_text())
    # As fa3 cut them when it edited text: more than what differs.
    text = made.source_text
    former = [Edit(edit.offset - 1, text[edit.offset - 1] + edit.removed, text[edit.offset - 1] + edit.inserted)
              for edit in made.receipt.modeling.edits]  # fmt: skip
    data["modeling"]["edits"] = [vars(edit) for edit in former]
    path.write_text(json.dumps(data))
    assert reverse(made.patched_text, read_receipt(weights).modeling.edits) == text
    assert plan(weights).result.state == "already-patched"
    assert status(weights).state == "patched"
    undo(weights)
    assert snapshot(weights) == before
