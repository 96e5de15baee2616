"""Tests that rooms import only earlier rooms, folders are small, and the picture in the docs is up to date."""

from __future__ import annotations

from pathlib import Path

from tests.rooms import DOCUMENT, ORDER, ROOT, imports, with_picture

MOST = 20  # files in one folder


def test_order_lists_every_room() -> None:
    entries = [path for path in (ROOT / "fa3cli").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert {path.stem for path in entries} - {"__init__"} == set(ORDER)


def test_rooms_import_only_earlier_rooms() -> None:
    up = {pair: modules for pair, modules in imports().items() if ORDER.index(pair[0]) < ORDER.index(pair[1])}
    assert up == {}


def test_no_folder_has_too_many_files() -> None:
    folders = {path.parent for path in (ROOT / "fa3cli").rglob("*.py")}
    assert {str(folder): count for folder in folders if (count := files_in(folder)) > MOST} == {}


def files_in(folder: Path) -> int:
    return sum(path.suffix == ".py" and path.name != "__init__.py" for path in folder.iterdir())


def test_the_picture_in_the_docs_is_up_to_date() -> None:
    text = DOCUMENT.read_text()
    assert "<!-- rooms -->" in text
    assert with_picture(text) == text
