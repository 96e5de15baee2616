"""Writes the facts as one html page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from fa3cli import __version__
from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.files.reading import require_regular
from fa3cli.files.writing import write_file
from fa3cli.report import wording
from fa3cli.report.colours import STEPS, shades
from fa3cli.report.error_chart import error_chart
from fa3cli.report.facts import Facts
from fa3cli.report.fallbacks import fallbacks, linears_by_reason
from fa3cli.report.heat_maps import heat_maps
from fa3cli.report.timesteps import timestep_maps

__all__ = ["page", "write_page"]

# The end of the title of every page that fa3 has written, and within how many bytes it stands.
_MARK, _BEGIN = b" fa3 report</title>", 4096


def page(facts: Facts) -> str:
    """Return the page. Names in it come from files, and are escaped."""
    return _template().render(
        facts=facts,
        labels=wording.labels(facts.layers),
        fallbacks=fallbacks(facts),
        linears_by_reason=linears_by_reason,
        maps=heat_maps(facts),
        timestep_maps=timestep_maps(facts),
        part=facts.part,
        chart=error_chart(facts),
        shades={"light": shades(dark=False), "dark": shades(dark=True)},
        steps=STEPS,
        version=__version__,
        words=wording,
    )


def write_page(facts: Facts, file: Path) -> None:
    """Write the page into a file that exists, old or new, only when it is complete.

    Raises InvalidInputError if the file's folder is missing or the file is a folder, ConflictError if it is something
    else than a page of fa3 report.
    """
    if not file.parent.is_dir():
        raise InvalidInputError(
            f"{file}: no such folder as {file.parent}",
            hint="make the folder, or name a file in one that exists",
        )
    if file.is_dir():
        raise InvalidInputError(
            f"{file}: is a folder, expected the name of a file", hint=f"try {file / 'report.html'}"
        )
    _require_page(file)
    write_file(file, page(facts).encode("utf-8", errors="replace"))


def _require_page(file: Path) -> None:
    """Raise ConflictError where a file is there that is neither a page of fa3 report nor empty."""
    try:
        require_regular(file)
        with file.open("rb") as stream:
            begin = stream.read(_BEGIN)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConflictError(
            f"{file}: cannot be replaced by a page ({error.strerror})", hint="name another file"
        ) from error
    if begin and _MARK not in begin:
        raise ConflictError(f"{file}: is there and no page of fa3 report", hint="name another file")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fa3cli", "data/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
