"""What makes two runs the same: an export of the same identity need not be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from fa3cli import __version__
from fa3cli.calibration.dataset import Sample
from fa3cli.calibration.job import Job
from fa3cli.export.folder import companions

__all__ = ["identity"]


def identity(job: Job) -> dict[str, Any]:
    """Return everything a run's result depends on, as json: hashes, options and versions."""
    import torch
    import transformers

    headers = json.dumps({name: asdict(info) for name, info in job.model.checkpoint.tensors.items()})
    shards = [_fingerprint(job.folder / file) for file in job.model.checkpoint.files]
    code, beside = sorted(job.folder.glob("*.py")), companions(job.folder)
    return {
        "weights": _sha256(headers, *shards),
        "config": _sha256((job.folder / "config.json").read_bytes()),
        "code": _sha256(*(file.read_bytes() for file in code)),
        "files beside": _sha256(*(part for file in beside for part in (file.name, file.read_bytes()))),
        "calibration": _sha256(*(part for sample in job.samples for part in _parts(sample))),
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


def _parts(sample: Sample) -> Iterator[str]:
    """Yield a sample's arguments as text."""
    for name, value in sorted(sample.arguments.items()):
        yield f"{name}={value.tolist() if isinstance(value, Tensor) else value}"


def _fingerprint(file: Path) -> str:
    """Hash a file's size and 256 blocks of 4 KB spread over it: two trainings differ in them, at no cost."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in range(0, size, max(size // 256, 4096)):
            stream.seek(start)
            digest.update(stream.read(4096))
    return digest.hexdigest()


def _sha256(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
