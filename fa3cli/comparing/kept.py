"""Adds a comparison of `fa3 verify --against` to the export's report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fa3cli.comparing.images import ImageComparison
from fa3cli.comparing.text import Comparison
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.files.documents import parse_json
from fa3cli.files.reading import LARGE, read_bytes
from fa3cli.files.writing import write_file
from fa3cli.runs.result import file_sha256

__all__ = ["keep_comparison"]


def keep_comparison(export: Path, comparison: Comparison | ImageComparison, text: Path) -> str | None:
    """Write a comparison, and the name and hash of its text or prompts, into the export's report in one atomic step.

    An earlier comparison is replaced, everything else stays. Returns the problem if the comparison cannot be written.
    """
    file = export / REPORT_FILE
    try:
        if not text.is_file():
            return f"{text} is no file, so its content cannot be identified later"
        file = file.resolve(strict=True)  # so that a link is kept and its target is replaced
        report = parse_json(read_bytes(file, LARGE).decode("utf-8"), unique=True)
        if not isinstance(report, dict):
            return f"{file}: not as fa3 wrote it"
        found = {**asdict(comparison), "text": text.name, "text_sha256": file_sha256(text)}
        write_file(file, (json.dumps(report | {"comparison": found}, indent=2) + "\n").encode())
    except FileNotFoundError:
        return f"{export} has no {REPORT_FILE}, which fa3 quantize writes"
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.13
        return str(error)
    return None
