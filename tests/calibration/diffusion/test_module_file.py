from hashlib import sha256
from pathlib import Path

import pytest

from fa3cli.calibration.diffusion.module_file import module_of
from fa3cli.errors import ConflictError, UnsupportedError

SOURCE = "from dataclasses import dataclass\n\n@dataclass\nclass Found:\n    value: int = {}\n"


def write(path: Path, value: int) -> Path:
    path.write_text(SOURCE.format(value))
    return path


def test_files_of_one_name_are_told_apart_by_what_they_hold(tmp_path) -> None:
    file = write(tmp_path / "code.py", 10)
    first = module_of(file, sha256(file.read_bytes()).hexdigest())
    assert module_of(write(tmp_path / "code.py", 11)).Found().value == 11
    assert first.Found().value == 10
    assert module_of(write(tmp_path / "code.py", 10)) is first


def test_no_compiled_code_is_left_behind(tmp_path) -> None:
    module_of(write(tmp_path / "code.py", 12))
    assert [path.name for path in tmp_path.iterdir()] == ["code.py"]


def test_another_file_than_was_looked_at(tmp_path) -> None:
    with pytest.raises(ConflictError, match="changed since fa3 wrote it"):
        module_of(write(tmp_path / "code.py", 13), "0" * 64)
    with pytest.raises(ConflictError, match="cannot be read"):
        module_of(tmp_path / "none.py")


def test_a_file_that_fails(tmp_path) -> None:
    (tmp_path / "code.py").write_text("import nothing_of_that_name\n")
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="cannot be imported .ModuleNotFoundError"):
            module_of(tmp_path / "code.py")
