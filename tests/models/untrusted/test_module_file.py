import inspect
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.models.untrusted.module_file import code_of, module_of

SOURCE = "from dataclasses import dataclass\n\n@dataclass\nclass Found:\n    value: int = {}\n"


def source(value: int) -> bytes:
    return SOURCE.format(value).encode()


def test_modules_of_one_file_name_are_distinguished_by_content(tmp_path) -> None:
    file = tmp_path / "code.py"
    first = module_of(file, source(10))
    assert module_of(file, source(11)).Found().value == 11
    assert first.Found().value == 10
    assert module_of(file, source(10)) is first


def test_the_file_itself_is_neither_read_nor_compiled(tmp_path) -> None:
    file = tmp_path / "code.py"
    file.write_text("raise SystemExit\n")
    module = module_of(file, source(12))
    assert (module.__file__, module.Found().value) == (str(file), 12)
    assert inspect.getsource(module) == SOURCE.format(12)
    assert [path.name for path in tmp_path.iterdir()] == ["code.py"]


def test_a_source_that_cannot_be_imported_is_an_error(tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="cannot be imported .ModuleNotFoundError"):
            module_of(tmp_path / "code.py", b"import nothing_of_that_name\n")


def test_code_must_be_in_a_readable_file(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_bytes(b"1\n")
    assert code_of(tmp_path / "code.py") == b"1\n"
    with pytest.raises(ConflictError, match="cannot be read"):
        code_of(tmp_path / "none.py")
