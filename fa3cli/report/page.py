"""Writes the facts as one html page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from fa3cli import __version__
from fa3cli.errors import InvalidInputError
from fa3cli.report import wording
from fa3cli.report.colours import STEPS, shades
from fa3cli.report.error_chart import error_chart
from fa3cli.report.facts import Facts
from fa3cli.report.fallbacks import fallbacks, linears_by_reason
from fa3cli.report.heat_maps import heat_maps
from fa3cli.report.timesteps import timestep_maps

__all__ = ["page", "write_page"]


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

    Raises InvalidInputError if the file's folder is missing or the file is a folder.
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
    text = page(facts)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="replace", dir=file.parent, prefix=f".{file.name}.", delete=False
    ) as draft:
        try:
            draft.write(text)
            draft.close()
            # Temporary files are their owner's alone; a page has the mode any new file gets.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(draft.name, 0o666 & ~umask)
            os.replace(draft.name, file)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


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
