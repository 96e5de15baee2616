"""The classes of a pipeline and of its transformers, and which code of its folder they need."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from torch import nn

from fa3cli.calibration.diffusion.quiet import quiet
from fa3cli.calibration.module_file import code_of, module_of
from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.patching.config_json import Config
from fa3cli.patching.diffusion.index import components
from fa3cli.patching.diffusion.library import installed_diffusers
from fa3cli.patching.receipt import Receipt

__all__ = ["pipeline_class_of", "require_trust", "transformer_classes"]


def transformer_classes(
    folder: Path, index: Config, receipt: Receipt | None, code: Mapping[str, str], *, trusted: bool
) -> dict[str, type[nn.Module]]:
    """Return the classes of the transformers by component: the patched ones of a receipt, else the installed diffusers'.

    `code` are the texts of patched files that were judged; others are read from the folder if it is trusted. Raises
    UnsupportedError for a pipeline without any.
    """
    import diffusers

    library = installed_diffusers()
    files = {each.component: each for each in receipt.files} if receipt else None
    classes = {}
    for each in components(index):
        if files is None and each.library == "diffusers" and library.defines(each.class_name):
            classes[each.name] = getattr(diffusers, each.class_name, None)
        elif files is not None and each.name in files:
            file = files[each.name]
            source = _source(folder / file.module, code.get(file.module), trusted)
            module = module_of(folder / file.module, source)
            classes[each.name] = getattr(module, each.class_name, None)
        else:
            continue
        if classes[each.name] is None:
            raise UnsupportedError(f"{folder / each.name}: there is no class {each.class_name} for it")
    if not classes:
        raise UnsupportedError(f"{index.path} names no transformer of diffusers {library.version}")
    return classes


def pipeline_class_of(folder: Path, index: Config) -> type:
    """Return the class that model_index.json names: of diffusers, or [file, class] of the folder."""
    import diffusers

    found = index.data.get("_class_name")
    file, name = found if isinstance(found, list) and len(found) == 2 else (None, found)
    if not isinstance(name, str):
        raise InvalidInputError(f"{index.path}: _class_name is {found!r}, expected a pipeline's class")
    with quiet():  # parts of it may want packages that are not installed
        own = folder / f"{file}.py"
        module = module_of(own, code_of(own)) if file else diffusers
        pipeline_class = getattr(module, name, None)
    if pipeline_class is None:
        raise UnsupportedError(
            f"{index.path}: diffusers {diffusers.__version__} has no {name}",
            hint="another diffusers version may have it",
        )
    return pipeline_class


def _source(file: Path, judged: str | None, trusted: bool) -> bytes:
    """Return what to run for a patched file."""
    if judged is not None:
        return judged.encode()
    if not trusted:
        raise ConflictError(f"{file}: patched again meanwhile", hint="run again when nothing writes there")
    return code_of(file)


def require_trust(folder: Path, index: Config, *, besides: Container[str]) -> None:
    """Raise ConflictError where loading the pipeline would run code of its folder, `besides` its transformers."""
    names = [
        each.name
        for each in components(index)
        if each.name not in besides and (folder / each.name / f"{each.library}.py").exists()
    ]
    names = ["the pipeline itself"] * isinstance(index.data.get("_class_name"), list) + names
    if names:
        raise ConflictError(
            f"{index.path} lets {', '.join(names)} load code of the folder",
            hint="pass --trust-remote-code if you trust it",
        )
