import json
import os
from dataclasses import replace
from typing import Any

import pytest

from fa3cli.errors import ConflictError
from fa3cli.patching import patch, plan, status, undo
from fa3cli.patching.edits import Edit, reverse
from fa3cli.patching.folders.receipt import RECEIPT, Change, FileChange, Options, Receipt, read_receipt
from tests.patching.conftest import snapshot
from tests.patching.diffusion.conftest import flux, library  # noqa: F401

CHANGE = Change("a", "b", (Edit(3, "x", "é\r\n"),))
OPTIONS = Options(("A",), "/given.py", rules="/rules")
FILE = FileChange(None, "modeling_qwen2_fa3.py", "/s.py", CHANGE)
SAMPLE = Receipt("0.1", 1, "transformers", "4.43.1", OPTIONS, (FILE,), CHANGE, None, {"a.toml": "12"})
PART = replace(FILE, component="a b", module="a b/transformer_x_fa3_0123456789ab.py")
PIPELINE = replace(SAMPLE, library="diffusers", files=(PART, replace(PART, component=None, module=PART.module[4:])))


def former(receipt: Receipt) -> dict[str, Any]:
    """Convert a receipt to the earlier form, when language models and pipelines had different forms."""
    data = json.loads(receipt.to_json())
    data[data.pop("library")] = data.pop("version")
    if receipt.library == "transformers":
        [file] = data.pop("files")
        del file["component"]
        data |= file | {"config": data.pop("index"), "auto_map_before": {"AutoConfig": "c.C"}}
    return data


def write(folder, text: str) -> None:
    (folder / RECEIPT).parent.mkdir()
    (folder / RECEIPT).write_bytes(text.encode())


@pytest.mark.parametrize("receipt", [SAMPLE, PIPELINE, replace(PIPELINE, index=None)])
def test_a_receipt_reads_back_as_written(tmp_path, receipt: Receipt) -> None:
    write(tmp_path, receipt.to_json())
    assert read_receipt(tmp_path) == receipt


@pytest.mark.parametrize("receipt", [SAMPLE, PIPELINE])
def test_a_receipt_in_the_earlier_format_is_read(tmp_path, receipt: Receipt) -> None:
    write(tmp_path, json.dumps(former(receipt)))
    assert read_receipt(tmp_path) == receipt


@pytest.mark.parametrize("gone", sorted(former(SAMPLE).keys() - {"rule_files", "link", "auto_map_before"}))
def test_a_broken_receipt_in_the_earlier_format_is_a_conflict(tmp_path, gone: str) -> None:
    for value in ({}, {gone: []}, {gone: None}):
        data = {key: kept for key, kept in former(SAMPLE).items() if key != gone} | value
        (tmp_path / RECEIPT).parent.mkdir(exist_ok=True)
        (tmp_path / RECEIPT).write_text(json.dumps(data))
        with pytest.raises(ConflictError, match="not a receipt"):
            read_receipt(tmp_path)


@pytest.mark.parametrize("files", [(), (FILE, FILE)])
def test_a_language_model_has_one_file(tmp_path, files: tuple[FileChange, ...]) -> None:
    for receipt in (replace(SAMPLE, files=files), replace(SAMPLE, index=None)):
        (tmp_path / RECEIPT).parent.mkdir(exist_ok=True)
        (tmp_path / RECEIPT).write_text(receipt.to_json())
        with pytest.raises(ConflictError, match="not a receipt"):
            read_receipt(tmp_path)


def test_a_missing_receipt_is_none(tmp_path) -> None:
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
        (["files"], 7),
        (["files", 0, "module"], 7),
        (["files", 0, "module"], None),
        (["library"], "torch"),
        (["version"], 5),
        (["options"], []),
        (["options", "rules"], 7),
        (["options", "attention"], "A"),
        (["options", "attention"], [7]),
        (["files", 0, "modeling"], None),
        (["files", 0, "modeling", "edits"], None),
        (["files", 0, "modeling", "edits"], {"offset": 3}),
        (["files", 0, "modeling", "edits", 0], [3, "x", "y"]),
        (["index", "edits", 0, "offset"], "3"),
        (["index", "edits", 0, "offset"], 1e400),
        (["index", "before"], DEEP),
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
def test_text_that_is_not_valid_json_is_a_conflict(tmp_path, text: str) -> None:
    write(tmp_path, text.encode("utf-8", "surrogatepass").decode("latin-1"))
    with pytest.raises(ConflictError, match="not a receipt fa3 can read"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", [".fa3", ".fa3/patch.json"])
def test_special_files_and_links_are_neither_read_nor_followed(tmp_path, name: str, make) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    if name == ".fa3" and path.is_dir() and not path.is_symlink():
        assert read_receipt(tmp_path) is None
        return
    with pytest.raises(ConflictError, match="that fa3 created"):
        read_receipt(tmp_path)


@pytest.mark.parametrize(
    "module",
    [
        *("../m.py", "/m.py", "a/m.py", "config.json", "", ".", "a\0b.py", "m.py", "configuration_x.py"),
        *("a/modeling_x_fa3.py", "../modeling_x_fa3.py", "modeling_x_fa3.py\n", "modeling_a\0_fa3.py"),
    ],
)
def test_a_receipt_cannot_name_files_outside_its_folder(tmp_path, module: str) -> None:
    write(tmp_path, replace(SAMPLE, files=(replace(FILE, module=module),)).to_json())
    with pytest.raises(ConflictError, match="outside"):
        read_receipt(tmp_path)


def test_a_receipt_with_equivalent_edits_is_accepted_and_undone(weights) -> None:
    before = snapshot(weights)
    made = plan(weights)
    patch(weights)
    path = weights / RECEIPT
    data = json.loads(path.read_text())
    # As older fa3 versions wrote edits: longer than the difference.
    [(text, patched_text)] = made.texts
    former = [Edit(edit.offset - 1, text[edit.offset - 1] + edit.removed, text[edit.offset - 1] + edit.inserted)
              for edit in made.receipt.files[0].modeling.edits]  # fmt: skip
    data["files"][0]["modeling"]["edits"] = [vars(edit) for edit in former]
    path.write_text(json.dumps(data))
    assert reverse(patched_text, read_receipt(weights).files[0].modeling.edits) == text
    assert plan(weights).result.state == "already-patched"
    assert status(weights).state == "patched"
    undo(weights)
    assert snapshot(weights) == before


@pytest.mark.parametrize("folder", ["weights", "flux"])
def test_a_patch_with_an_earlier_receipt_format_is_accepted_and_undone(folder: str, request) -> None:
    folder = request.getfixturevalue(folder)
    before = snapshot(folder)
    patch(folder)
    (folder / RECEIPT).write_text(json.dumps(former(read_receipt(folder))))
    assert patch(folder).state == "already-patched"
    assert status(folder).reproducible
    undo(folder)
    assert snapshot(folder) == before
