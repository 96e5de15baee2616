"""A python file of a pipeline's folder as a module, made of the very bytes that were looked at."""

from __future__ import annotations

import sys
from hashlib import sha256
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from fa3cli.errors import ConflictError, UnsupportedError, brief

__all__ = ["module_of"]


def module_of(file: Path, digest: str | None = None) -> ModuleType:
    """Return the module of a file whose imports are absolute; with a sha256 `digest` it must be the file of that.

    Python's cache of compiled code, which may be of another file, is neither read nor written. Raises ConflictError for a
    missing or another file, UnsupportedError where it can't be imported.
    """
    try:
        source = file.read_bytes()
    except OSError as error:
        raise ConflictError(f"{file}: cannot be read ({error})", hint="run fa3 patch again") from error
    found = sha256(source).hexdigest()
    if digest not in (None, found):
        raise ConflictError(f"{file}: changed since fa3 wrote it", hint="run fa3 patch again")
    name = f"fa3_pipeline_code_{found[:16]}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, file, loader=_Loader(file, source))
        module = sys.modules[name] = module_from_spec(spec)  # where classes look for it while they are made
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the file's own code raises what it likes
            del sys.modules[name]
            raise UnsupportedError(f"{file}: cannot be imported ({brief(error)})") from error
    return sys.modules[name]


class _Loader(SourceLoader):
    """Makes a module of `source`."""

    def __init__(self, file: Path, source: bytes) -> None:
        self._file, self._source = file, source

    def get_filename(self, _: str) -> str:
        return str(self._file)

    def get_data(self, path: str) -> bytes:
        if path != str(self._file):
            raise FileNotFoundError(path)
        return self._source
