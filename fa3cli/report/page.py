"""Writes the facts as one self-contained html page: no script, no font, no network."""

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

# Every page that fa3 writes has this mark, the end of its title, within the first bytes.
_MARK, _HEAD_BYTES = b" fa3 report</title>", 4096


def page(facts: Facts) -> str:
    """Return the page. Names come from untrusted files, so the template escapes them."""
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
    """Write the page to a file atomically; an older page is replaced.

    Raises InvalidInputError if the file's folder is missing or the file is a folder. Raises ConflictError if the file
    exists and is not a page of fa3 report.
    """
    if not file.parent.is_dir():
        raise InvalidInputError(
            f"{file}: the folder {file.parent} does not exist",
            hint="make the folder, or choose a file in an existing folder",
        )
    if file.is_dir():
        raise InvalidInputError(f"{file}: is a folder, expected a file name", hint=f"try {file / 'report.html'}")
    _require_page(file)
    write_file(file, page(facts).encode("utf-8", errors="replace"))


def _require_page(file: Path) -> None:
    """Raise ConflictError if the file exists and is neither a page of fa3 report nor empty."""
    try:
        require_regular(file)
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConflictError(
            f"{file}: cannot be replaced by a page ({error.strerror})", hint="choose another file"
        ) from error
    if head and _MARK not in head:
        raise ConflictError(f"{file}: exists and is not a page of fa3 report", hint="choose another file")


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
