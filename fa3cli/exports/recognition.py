"""Finds the target for which an export was written."""

from __future__ import annotations

from pathlib import Path

from fa3cli.exports.json_documents import is_file, read_document
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.target import Target
from fa3cli.files.reading import LARGE

__all__ = ["recognize_target"]


def recognize_target(folder: Path) -> Target:
    """Return the target named in fa3_report.json, else the one that the files indicate, else modelslim."""
    named = _read(folder, REPORT_FILE).get("target")
    if isinstance(named, str) and named in TARGETS:
        return TARGETS[named]
    config = _read(folder, "config.json")
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") == "compressed-tensors":
        return TARGETS["vllm"]
    pipelines = TARGETS["mindie-sd"]
    # Language models with dynamic linears have files of these names, too.
    if "model_type" not in config and any(
        is_file(folder / name) for name in (*pipelines.description_files, pipelines.weight_file)
    ):
        return pipelines
    # Target mindie is never inferred: its files are those of modelslim.
    ascend = TARGETS["vllm-ascend"]
    described = [_read(folder, name) for name in ascend.description_files]
    return ascend if any("kv_cache_type" in data for data in described) else TARGETS["modelslim"]


def _read(folder: Path, name: str) -> dict[str, object]:
    return read_document(folder, name, LARGE).data or {}
