"""Keeps what `fa3 verify --against` measured beside what the export's report says of its making."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fa3cli.calibration.diffusion.comparison import ImageComparison
from fa3cli.calibration.evaluation import Comparison
from fa3cli.calibration.result import REPORT_FILE, file_sha256
from fa3cli.files.documents import parse_json
from fa3cli.files.reading import LARGE, read_bytes
from fa3cli.files.writing import write_file

__all__ = ["keep_comparison"]


def keep_comparison(export: Path, comparison: Comparison | ImageComparison, text: Path) -> str | None:
    """Put a comparison and which text or prompts it was made on into the export's report, at once; return why, where it can't be.

    One that was there is replaced, everything else stays as it is.
    """
    file = export / REPORT_FILE
    try:
        if not text.is_file():
            return f"{text} is no file that could be told by its bytes later"
        file = file.resolve(strict=True)  # a link stays one
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
