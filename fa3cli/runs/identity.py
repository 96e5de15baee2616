"""Computes a run's identity: hashes, options, versions. Runs of the same identity make the same export."""

from __future__ import annotations

import json
import platform
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fa3cli import __version__
from fa3cli.errors import InvalidInputError
from fa3cli.exports.companions import companions
from fa3cli.files.hashing import fingerprint, sha256_of
from fa3cli.files.reading import LARGE, read_bytes
from fa3cli.models.devices import device_kind
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.runs.job import Job

__all__ = ["differing", "export_identity", "identity", "source_identity"]


def identity(job: Job) -> dict[str, Any]:
    """Return everything that a run's result depends on, as json: hashes, options and versions."""
    return export_identity(_calibration_identity(job), job)


def export_identity(calibrated: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Return the identity of a job's exports: the calibration's identity and the options of the export."""
    if not job.targets:
        return dict(calibrated)
    return {
        **calibrated,
        "targets": {target.name: target.options for target in job.targets},
        "save_types": list(job.save_types),
        "part_bytes": job.part_bytes,
        # The calibration may have been made by other versions than its exports.
        "exported by": {"fa3cli": __version__, "torch": torch.__version__},
    }


def source_identity(job: Job) -> dict[str, str]:
    """Return the hashes of a weights folder: weights, config, code, and the files beside them."""
    model, folder = job.model, job.source
    if not isinstance(model, StreamedModel):
        raise TypeError(f"{folder}: the model is in memory, not in files")
    headers = json.dumps({name: asdict(info) for name, info in model.checkpoint.tensors.items()})
    begins = defaultdict(list)
    for info in model.checkpoint.tensors.values():
        begins[info.file].append(info.begin)
    shards = [fingerprint(folder / file, begins[file]) for file in model.checkpoint.files]
    code, beside = sorted(folder.glob("*.py")), companions(folder)
    return {
        "weights": sha256_of(headers, *shards),
        "config": sha256_of(_read(folder / "config.json")),
        "code": sha256_of(*map(_read, code)),
        # The export holds copies of them, and the tokenizer decides the samples.
        "files beside": sha256_of(*(part for file in beside for part in (file.name, _read(file)))),
    }


def _read(file: Path) -> bytes:
    """Return the bytes of a file beside the weights; raises InvalidInputError if it cannot be read."""
    try:
        return read_bytes(file, LARGE)
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror})") from error


def _calibration_identity(job: Job) -> dict[str, Any]:
    import transformers

    return {
        **source_identity(job),
        **job.sample_identity(),
        # Converted through json: tuples become lists, as in an identity that is read back from a file.
        "settings": json.loads(json.dumps(asdict(job.settings))),
        "dtype": str(job.model.dtype),
        "attn_implementation": str(getattr(job.model.config, "_attn_implementation", None)),
        # Other kernels or thread counts add floats in another order, so the last bits differ.
        "device": device_kind(job.model.device),
        "cpu": f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": {
            "fa3cli": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **{library: version(library) for library in job.libraries},
            **({"torch_npu": version("torch_npu")} if job.model.device.type == "npu" else {}),
        },
    }


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two identities differ, with both values unless they are hashes or missing."""
    names = []
    for field in {**before, **now}:
        old, new = before.get(field), now.get(field)
        if isinstance(old, dict) and isinstance(new, dict):
            names += [f"{field}.{name}" for name in differing(old, new)]
        elif old != new:
            name_only = _is_hash(old) or old is None or new is None
            names.append(field if name_only else f"{field} ({old!s:.60}, now {new!s:.60})")
    return names


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _cpu_model() -> str:
    """Return the processor's name from /proc/cpuinfo, or from Python."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(errors="replace") if file.is_file() else ""
    # On ARM, cpuinfo has no model name, but the number of the CPU part.
    found = re.search(r"(?m)^(?:model name|CPU part)\s*:\s*(.*)$", text)
    return found[1] if found else platform.processor() or platform.machine()
