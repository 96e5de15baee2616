"""Copies a weights folder for transformers and diffusers: without code, paths that lead elsewhere, or endless files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from fa3cli.errors import InvalidInputError
from fa3cli.files.reading import LARGE, read_bytes, require_regular
from fa3cli.models.untrusted.model_documents import checked_document

__all__ = ["checked_copy", "checked_file", "copy_checked", "require_regular_files"]

# Files that the libraries read whole.
_DOCUMENTS = (
    "*config.json", "*index.json", "tokenizer*", "*vocab*", "merges.txt", "*tokens*.json", "*.model",
    "*.jinja", "chat_template*", "*.tiktoken", "*.spm", "*.codes",
)  # fmt: skip
# Code, pickles (which can hold code), and files that make transformers load the weights of another folder.
_LEFT_OUT = (
    "*.py", "*.pyc", "*.so", "*.bin", "*.bin.index.json", "*.ckpt", "*.pt", "*.pth", "*.pkl", "adapter_config.json",
)  # fmt: skip
_TEMPLATES = "additional_chat_templates"
_HINT = "fetch the folder again, or move the file elsewhere"


@contextmanager
def checked_copy(folder: Path, wanted: str = "*") -> Iterator[Path]:
    """Yield a temporary folder with the files that a library may read without running this folder's code.

    `wanted` is a glob for file names. Documents are copies, so that the library reads the bytes that were checked, even
    if the originals change. Raises as `copy_checked` does.
    """
    with TemporaryDirectory(prefix="fa3-checked-") as place:
        copy_checked(folder, Path(place), wanted)
        yield Path(place)


def copy_checked(folder: Path, target: Path, wanted: str = "*") -> None:
    """Fill `target` with copies of a folder's documents and links to its other files, without its code.

    Raises the errors of `require_regular_files` and `checked_document`.
    """
    require_regular_files(folder)
    for file in _files(folder):
        copied = target / file.relative_to(folder)
        if _matches_any(file, _LEFT_OUT) or not fnmatch(file.name, wanted):
            continue
        copied.parent.mkdir(exist_ok=True)
        if _matches_any(file, _DOCUMENTS):
            copied.write_bytes(checked_file(file))
        else:
            # Weights, for example, are too large to copy; fa3 reads them with checks of its own.
            copied.symlink_to(file.absolute())


def checked_file(file: Path) -> bytes:
    """Return the bytes of a document without paths of other files; raises as `checked_document` does."""
    try:
        data = read_bytes(file, LARGE)
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror}", hint=_HINT) from error
    return checked_document(file, data)


def require_regular_files(folder: Path) -> None:
    """Raise InvalidInputError for a file that a reader would never finish, or that would fill the memory.

    Examples are a pipe and a link to a device.
    """
    for file in _files(folder):
        try:
            require_regular(file, LARGE if _matches_any(file, _DOCUMENTS) else None)
        except OSError as error:
            raise InvalidInputError(f"{file}: {error.strerror}", hint=_HINT) from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of its subfolder of templates; broken links are omitted."""
    try:
        entries = [entry for place in (folder, folder / _TEMPLATES) if place.is_dir() for entry in place.iterdir()]
        yield from (entry for entry in sorted(entries) if entry.exists() and not entry.is_dir())
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be read ({error.strerror})") from error


def _matches_any(file: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(file.name, pattern) for pattern in patterns)
