"""Finds the classes of a pipeline and its transformers, and the folder's code that they need."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.models.untrusted.module_file import code_of, module_of
from fa3cli.patching.diffusion.index import components
from fa3cli.patching.diffusion.library import installed_diffusers
from fa3cli.patching.folders.config_json import Config
from fa3cli.patching.folders.receipt import Receipt
from fa3cli.pipelines.quiet import quiet
from fa3cli.pipelines.skeleton import Transformer

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["pipeline_class_of", "require_trust", "transformer_classes"]


def transformer_classes(
    folder: Path, index: Config, receipt: Receipt | None, code: Mapping[str, str], *, trusted: bool
) -> dict[str, type[Transformer]]:
    """Return the transformers' classes by component: patched classes if there is a receipt, else the installed diffusers'.

    `code` are the texts of patched files that were checked; other files are read from the folder if it is trusted.
    Raises UnsupportedError for a pipeline without transformers.
    """
    import diffusers

    library = installed_diffusers()
    files = {patched.component: patched for patched in receipt.files} if receipt else None
    classes: dict[str, type[Transformer]] = {}
    for component in components(index):
        found: type[Transformer] | None
        if files is None and component.library == "diffusers" and library.defines(component.class_name):
            found = getattr(diffusers, component.class_name, None)
        elif files is not None and component.name in files:
            file = files[component.name]
            source = _source(folder / file.module, code.get(file.module), trusted)
            module = module_of(folder / file.module, source)
            found = getattr(module, component.class_name, None)
        else:
            continue
        if found is None:
            raise UnsupportedError(f"{folder / component.name}: its class {component.class_name} was not found")
        classes[component.name] = found
    if not classes:
        raise UnsupportedError(f"{index.path} names no transformer of diffusers {library.version}")
    return classes


def pipeline_class_of(folder: Path, index: Config) -> type[DiffusionPipeline]:
    """Return the class that model_index.json names: a class of diffusers, or [file, class] of the folder."""
    import diffusers

    found = index.data.get("_class_name")
    file, name = found if isinstance(found, list) and len(found) == 2 else (None, found)
    if not isinstance(name, str):
        raise InvalidInputError(f"{index.path}: _class_name is {found!r}, expected a pipeline's class")
    with quiet():  # importing it may warn about packages that are not installed
        own = folder / f"{file}.py"
        module = module_of(own, code_of(own)) if file else diffusers
        pipeline_class: type[DiffusionPipeline] | None = getattr(module, name, None)
    if pipeline_class is None:
        raise UnsupportedError(
            f"{index.path}: diffusers {diffusers.__version__} has no {name}",
            hint="another diffusers version may have it",
        )
    return pipeline_class


def _source(file: Path, checked: str | None, trusted: bool) -> bytes:
    """Return the source to run for a patched file."""
    # The text that was checked, not the file: the file may have changed since.
    if checked is not None:
        return checked.encode()
    if not trusted:
        raise ConflictError(f"{file}: patched again in the meantime", hint="run again when no process writes it")
    return code_of(file)


def require_trust(folder: Path, index: Config, *, besides: Container[str]) -> None:
    """Raise ConflictError if loading the pipeline would run code of its folder, other than for the components `besides`."""
    names = [
        component.name
        for component in components(index)
        if component.name not in besides and (folder / component.name / f"{component.library}.py").exists()
    ]
    names = ["the pipeline itself"] * isinstance(index.data.get("_class_name"), list) + names
    if names:
        raise ConflictError(
            f"{index.path} lets {', '.join(names)} load code of the folder",
            hint="pass --trust-remote-code if you trust it",
        )
