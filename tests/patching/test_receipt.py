import json
import os

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
    "modeling_qwen2_fa3.py",
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


def changed(data, path: list, value):
    """Data with one value replaced."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = changed(data[path[0]], path[1:], value)
    return copy


DEEP = json.loads("[" * 90 + "]" * 90)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["module"], 7),
        (["module"], None),
        (["options"], []),
        (["options", "rules"], 7),
        (["options", "attention"], "A"),
        (["options", "attention"], [7]),
        (["modeling"], None),
        (["modeling", "edits"], None),
        (["modeling", "edits"], {"offset": 3}),
        (["modeling", "edits", 0], [3, "x", "y"]),
        (["config", "edits", 0, "offset"], "3"),
        (["config", "edits", 0, "offset"], 1e400),
        (["config", "before"], DEEP),
        (["auto_map_before"], DEEP),
        (["link"], 7),
        (["rule_files"], {"a.toml": None}),
        (["rules"], True),
        (["fa3cli"], "\ud800"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_conflict(tmp_path, path: list, value) -> None:
    write(tmp_path, json.dumps(changed(json.loads(SAMPLE.to_json()), path, value)))
    with pytest.raises(ConflictError, match="not a receipt fa3 can read"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", '{"rules": ' + "9" * 5000 + "}", "\ud800", "\0"])
def test_text_that_is_no_document_is_a_conflict(tmp_path, text: str) -> None:
    write(tmp_path, text.encode("utf-8", "surrogatepass").decode("latin-1"))
    with pytest.raises(ConflictError, match="not a receipt fa3 can read"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", [".fa3", ".fa3/patch.json"])
def test_what_fa3_would_not_make_is_neither_read_nor_followed(tmp_path, name: str, make) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    if name == ".fa3" and path.is_dir() and not path.is_symlink():
        assert read_receipt(tmp_path) is None
        return
    with pytest.raises(ConflictError, match="of fa3's own"):
        read_receipt(tmp_path)


@pytest.mark.parametrize(
    "module",
    [
        *("../m.py", "/m.py", "a/m.py", "config.json", "", ".", "a\0b.py", "m.py", "configuration_x.py"),
        *("a/modeling_x_fa3.py", "../modeling_x_fa3.py", "modeling_x_fa3.py\n", "modeling_a\0_fa3.py"),
    ],
)
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
