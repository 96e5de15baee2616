"""Checks of config.json: what engines read from it, and what must not be left in it."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.export.checks.registry import Remark, check, error, warning
from fa3cli.export.contents import Contents
from fa3cli.export.geometry import config_problems

_FILE = "config.json"


@check("config", "its dtype and sizes decide how every tensor is read")
def config(contents: Contents) -> Iterator[Remark]:
    if contents.config.data is None:
        yield error(_FILE, contents.config.problem or "is missing")
        return
    for problem in config_problems(contents.config.data):
        yield error(_FILE, problem)


@check(
    "config-auto-map", "the patched modeling file serves calibration; no engine can run it", needs=("config",)
)
def config_auto_map(contents: Contents) -> Iterator[Remark]:
    for name, reference in _code_references(contents):
        if _module(reference).endswith("_fa3"):
            yield error(
                _FILE, f"auto_map sends {name} to {reference}; expected the model's own entry, or none"
            )


@check("remote-code", "a model with code of its own loads only with that file beside it", needs=("config",))
def remote_code(contents: Contents) -> Iterator[Remark]:
    for name, reference in _code_references(contents):
        file = f"{_module(reference)}.py"
        if not _module(reference).endswith("_fa3") and not (contents.folder / file).is_file():
            yield error(file, f"is missing; auto_map of {_FILE} sends {name} to it")


@check(
    "quantization-config", "vLLM-Ascend reads it instead of the description", needs=("config", "description")
)
def quantization_config(contents: Contents) -> Iterator[Remark]:
    own = contents.config.data.get("quantization_config")
    if own is None:
        return
    missing = [name for name in contents.description if not isinstance(own, dict) or name not in own]
    if missing:
        yield error(
            _FILE,
            f"quantization_config says nothing of {len(missing)} tensors, {missing[0]} first; remove it",
        )


@check("config-quantize", "MindIE takes its W8A8 loader from it", needs=("config",))
def config_quantize(contents: Contents) -> Iterator[Remark]:
    found = contents.config.data.get("quantize")
    if found != "w8a8":
        yield warning(_FILE, f"quantize is {found!r}, expected 'w8a8'")


def _code_references(contents: Contents) -> Iterator[tuple[str, str]]:
    """The local `module.Class` references of auto_map; `repository--module.Class` lies elsewhere."""
    auto_map = contents.config.data.get("auto_map")
    for name, value in (auto_map if isinstance(auto_map, dict) else {}).items():
        for reference in value if isinstance(value, list) else [value]:
            if isinstance(reference, str) and "--" not in reference:
                yield name, reference


def _module(reference: str) -> str:
    return reference.rpartition(".")[0]
