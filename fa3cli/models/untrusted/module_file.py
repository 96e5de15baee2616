"""Imports a Python file of a folder as a module, from the bytes that were checked."""

from __future__ import annotations

import linecache
import sys
from hashlib import sha256
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from fa3cli.errors import ConflictError, UnsupportedError, brief
from fa3cli.files.reading import read_bytes

__all__ = ["code_of", "module_of"]


def code_of(file: Path) -> bytes:
    """Return the bytes of a folder's code; raises ConflictError if the file cannot be read."""
    try:
        return read_bytes(file)
    except OSError as error:
        raise ConflictError(f"{file}: cannot be read ({error.strerror})", hint="run fa3 patch again") from error


def module_of(file: Path, source: bytes) -> ModuleType:
    """Return the module of Python `source`, whose imports are absolute, under the path `file`, which is not read.

    Python's cache of compiled code is neither read nor written, since it may come from another file. Raises
    UnsupportedError if the source cannot be imported.
    """
    file = file.absolute()  # transformers looks at the folders above a module's file
    # Named by content: files of several folders may have the same name.
    name = f"fa3_folder_code_{sha256(source).hexdigest()[:16]}"
    if name not in sys.modules:
        loader = _Loader(file, source)
        spec = ModuleSpec(name, loader, origin=str(file))
        spec.has_location = True
        # Registered before the code runs: dataclasses look up their module in sys.modules.
        module = sys.modules[name] = module_from_spec(spec)
        _show_in_tracebacks(file, source)
        try:
            loader.exec_module(module)
        except Exception as error:  # the file's own code may raise any error
            # Removed, or the next call would return the half-imported module.
            del sys.modules[name]
            raise UnsupportedError(f"{file}: cannot be imported ({brief(error)})") from error
    return sys.modules[name]


def _show_in_tracebacks(file: Path, source: bytes) -> None:
    """Make tracebacks and `inspect`, with which transformers reads a model's code, use this source and not the file."""
    text = source.decode("utf-8", "replace")
    # An entry without a modification time is never compared with the file.
    linecache.cache[str(file)] = (len(source), None, text.splitlines(keepends=True), str(file))


class _Loader(SourceLoader):
    """Loads a module from `source`."""

    def __init__(self, file: Path, source: bytes) -> None:
        self._file, self._source = file, source

    def get_filename(self, _: str) -> str:
        return str(self._file)

    def get_data(self, path: str) -> bytes:
        if path != str(self._file):
            raise FileNotFoundError(path)
        return self._source
