"""From places to text: the file goes through libcst and the codemod, byte for byte as it was where there is no place.

libcst is imported when the first file is written: it would cost every command's start 0.2 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.places import Place
from fa3cli.patching.source import BOM, Source

__all__ = ["write"]


def write(source: Source, places: Sequence[Place]) -> str:
    """The text of a file with every place written; UnsupportedError if libcst can't read the file."""
    if not places:
        return source.text
    import libcst as cst
    from libcst.metadata import MetadataWrapper

    from fa3cli.patching.codemod import PatchAttention

    text = source.text.removeprefix(BOM)
    try:
        module = cst.parse_module(text)
        _refuse_losses(source, text, module.code)
        made = MetadataWrapper(module, unsafe_skip_copy=True).visit(PatchAttention(source, places))
        return source.text.removesuffix(text) + made.code
    except cst.ParserSyntaxError as error:
        raise UnsupportedError(f"{source.name}:{error.raw_line}: libcst cannot parse this line") from None
    except RecursionError:
        raise UnsupportedError(f"{source.name}: the code is nested too deeply to be rewritten") from None


def _refuse_losses(source: Source, text: str, read: str) -> None:
    """Refuse a file that libcst doesn't give back as it was."""
    if read != text:
        lines = zip_longest(source.lines, read.splitlines(keepends=True))
        line = next(number for number, (old, new) in enumerate(lines, 1) if old != new)
        raise UnsupportedError(
            f"{source.name}:{line}: libcst does not keep this line as it is",
            hint="use LF or CRLF line ends, and take form feeds off the beginning of lines with code",
        )
