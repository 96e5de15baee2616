"""Keeps what `fa3 verify --against` measured beside what the export's report says of its making."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from fa3cli.calibration.diffusion.comparison import ImageComparison
from fa3cli.calibration.evaluation import Comparison
from fa3cli.calibration.result import REPORT_FILE
from fa3cli.exports.folder import to_disk

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
        report = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(report, dict):
            return f"{file}: not as fa3 wrote it"
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        report["comparison"] = {**asdict(comparison), "text": text.name, "text_sha256": digest}
        _replace(file, report)
    except FileNotFoundError:
        return f"{export} has no {REPORT_FILE}, which fa3 quantize writes"
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.13
        return str(error)
    return None


def _replace(file: Path, report: dict[str, Any]) -> None:
    """Write a report, in the mode of the one that it replaces."""
    new = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        new.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        shutil.copymode(file, new)
        to_disk(new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
