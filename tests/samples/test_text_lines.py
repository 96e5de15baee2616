import os
import threading
from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.samples import text_lines
from fa3cli.samples.text_lines import numbered_lines


def test_line_ends_of_any_system_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo\xe2\x80\xa8\n three\r\n\n")
    assert list(numbered_lines(file)) == [(1, "one"), (2, ""), (3, "two\u2028"), (4, " three")]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(InvalidInputError, match="a.txt, line 3: cannot be read as UTF-8"):
        list(numbered_lines(file))


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "pipe"
    os.mkfifo(file)
    writer = threading.Thread(target=file.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    assert list(numbered_lines(file)) == [(1, "one"), (2, "two")]
    writer.join()


@pytest.mark.parametrize("name", ["none", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(numbered_lines(tmp_path / name))


def test_a_line_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LARGE", 10)
    file = tmp_path / "a.txt"
    file.write_bytes(b"0123456789\n")
    with pytest.raises(InvalidInputError, match="line 1: longer than"):
        list(numbered_lines(file))
    file.write_bytes(b"012345678\n")
    assert list(numbered_lines(file)) == [(1, "012345678")]


def test_an_endless_device_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="line 1: longer than 128 MiB"):
        list(numbered_lines(Path("/dev/zero")))
