"""Measure every type under every version and write docs/supported-models.md: `make supported-models`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.patching.matrix.environments import ROOT, VERSIONS
from tests.patching.matrix.measure import causal_types, measure
from tests.patching.matrix.outcomes import Version, read, write
from tests.patching.matrix.reversal import check_files, modeling_files
from tests.patching.matrix.table import render


def main() -> None:
    options = _options()
    data = options.table.with_suffix(".json")
    for version in options.versions or VERSIONS:
        started, known = time.monotonic(), read(data)
        known[version] = _measured(version, options.types, options.results, known.get(version, Version({})))
        write(data, known)
        options.table.write_text(render(read(data)), "utf-8")
        print(f"{version}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def _measured(version: str, asked: list[str], results: Path, known: Version) -> Version:
    """The results of a version, with all types and files measured again, or only the requested types."""
    types = causal_types(version)
    if asked:
        found = measure(version, [model_type for model_type in asked if model_type in types], results / version)
        return replace(known, types={**known.types, **found})
    return Version(measure(version, types, results / version), check_files(modeling_files(version)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.patching.matrix", description=__doc__)
    add = parser.add_argument
    add("--versions", nargs="*", metavar="VERSION", help="of transformers, each with an environment in .venvs")
    add("--types", nargs="*", metavar="TYPE", help="model types; what the table says of others stays")
    add("--results", type=Path, default=ROOT / "build" / "matrix", help="where runs leave everything")
    add("--table", type=Path, default=ROOT / "docs" / "supported-models.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
