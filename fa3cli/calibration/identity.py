"""What makes two runs the same: an export of the same identity need not be made again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fa3cli import __version__
from fa3cli.calibration.job import Job
from fa3cli.errors import ConflictError

__all__ = ["REPORT_FILE", "identity", "is_complete"]

REPORT_FILE = "fa3_report.json"


def identity(job: Job) -> dict[str, Any]:
    """Return everything a run's result depends on, as json: hashes, options and versions."""
    import torch
    import transformers

    ids = json.dumps([sample.input_ids for sample in job.samples])
    headers = json.dumps({name: asdict(info) for name, info in job.model.checkpoint.tensors.items()})
    shards = [_fingerprint(job.folder / file) for file in job.model.checkpoint.files]
    code = sorted(job.folder.glob("*.py"))
    return {
        "weights": _sha256(headers, *shards),
        "config": _sha256((job.folder / "config.json").read_text()),
        "code": _sha256(*(file.read_text() for file in code)),
        "calibration": _sha256(ids),
        "settings": json.loads(json.dumps(asdict(job.settings))),
        "dtype": str(job.model.dtype),
        "attn_implementation": str(job.model.config._attn_implementation),
        "save_types": list(job.save_types),
        "part_bytes": job.part_bytes,
        "versions": {
            "fa3cli": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def is_complete(output: Path, wanted: dict[str, Any]) -> bool:
    """Tell whether `output` already is the export of this identity.

    Raises ConflictError where it is another export, naming what differs, or where a file of it is gone.
    """
    try:
        report = json.loads((output / REPORT_FILE).read_text())
        found, files = dict(report["identity"]), list(report["result"]["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    differing = [field for field in wanted if found.get(field) != wanted[field]]
    if differing:
        raise ConflictError(
            f"{output}: holds an export made from other {', '.join(differing)}",
            hint="remove it, or choose another --output",
        )
    lost = [name for name in files if not (output / name).is_file()]
    if lost:
        raise ConflictError(
            f"{output}: holds this export, but {lost[0]} is gone from it",
            hint="remove it, to have it made again",
        )
    return True


def _fingerprint(file: Path) -> str:
    """Hash a file's size and 256 blocks of 4 KB spread over it: two trainings differ in them, at no cost."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in range(0, size, max(size // 256, 4096)):
            stream.seek(start)
            digest.update(stream.read(4096))
    return digest.hexdigest()


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
