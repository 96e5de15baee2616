"""Writes places into a file's text with libcst; all other bytes stay as they are.

libcst is imported when the first file is written, because the import takes 0.2 s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fa3cli.errors import UnsupportedError
from fa3cli.patching.places import Place
from fa3cli.patching.source import BOM, Source

__all__ = ["write"]


def write(source: Source, places: Sequence[Place]) -> str:
    """Write every place into a file's text; UnsupportedError if libcst cannot read it or Python cannot compile it."""
    if not places:
        return source.text
    import libcst as cst
    from libcst.metadata import MetadataWrapper

    from fa3cli.patching.codemod import PatchAttention

    mark, text, blank = _parts(source.text)
    try:
        module = cst.parse_module(text)
        _refuse_losses(source, text, module.code)
        made = MetadataWrapper(module, unsafe_skip_copy=True).visit(PatchAttention(source, places))
        _require_compiles(source, text, made.code)
        return mark + made.code + blank
    except cst.ParserSyntaxError as error:
        # libcst's raw_line is the line after the error, except in the last line; the message has the right one.
        found = re.search(r" at (\d+):", error.message)
        line = found[1] if found else error.raw_line
        raise UnsupportedError(f"{source.name}:{line}: libcst cannot parse this line") from None
    except RecursionError:
        raise UnsupportedError(f"{source.name}:1: nested too deeply for libcst") from None


def _parts(text: str) -> tuple[str, str, str]:
    """Split off the byte order mark, and blank lines at the end if they hold spaces, which libcst would drop."""
    code = text.removeprefix(BOM)
    end = code[len(code.rstrip(" \t\f\r\n")) :]
    blank = end.partition("\n")[2]
    if not blank.strip("\r\n"):
        blank = ""
    return text.removesuffix(code), code.removesuffix(blank), blank


def _refuse_losses(source: Source, text: str, read: str) -> None:
    """Refuse a file whose text libcst does not reproduce exactly."""
    if read != text:
        line = 1 + len(re.findall(r"\r\n?|\n", os.path.commonprefix([read, text])))
        raise UnsupportedError(
            f"{source.name}:{line}: libcst does not keep this line as it is",
            hint="remove lone CR line ends, and form feeds before statements, from the file",
        )


def _require_compiles(source: Source, before: str, after: str) -> None:
    """Refuse a file whose patched text Python cannot compile; names the source line if the source has the error."""
    if (error := _compile_error(after, source.name)) is None:
        return
    if (fault := _compile_error(before, source.name)) is None:
        raise UnsupportedError(f"{source.name}: Python cannot run the patched file: {error.msg} (line {error.lineno})")
    raise UnsupportedError(f"{source.name}:{fault.lineno or 1}: Python cannot run this file: {fault.msg}")


def _compile_error(text: str, name: str) -> SyntaxError | None:
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        return SyntaxError(f"{type(error).__name__} {error}", (name, 1, 1, ""))
    return None
