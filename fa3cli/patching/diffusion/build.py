"""Patches the modeling file of every transformer of a pipeline."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.diffusion.elsewhere import refuse_attention_elsewhere
from fa3cli.patching.diffusion.index import INDEX, Component, component_config, components
from fa3cli.patching.diffusion.library import PACKAGE, Diffusers
from fa3cli.patching.diffusion.vendor import Vendored, vendor
from fa3cli.patching.folders.config_json import Config
from fa3cli.patching.folders.receipt import Options
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origins.build import Build
from fa3cli.patching.origins.origin import Origin, has_quantizer, quantizer_exists_error, read_source
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.source import Source, parse
from fa3cli.patching.sources import list_source, patch_source

__all__ = ["attention_classes_of", "build", "origins"]


def origins(library: Diffusers, folder: Path, index: Config, modeling: Path | None) -> list[Origin]:
    """Return the file of each transformer of a pipeline: `modeling` for its own classes; or nothing but `modeling`."""
    if not index.text and modeling is None:
        raise InvalidInputError(f"{folder} has no {INDEX}", hint="pass the file to patch as --modeling")
    parts = _transformers(library, folder, index)
    given = parse(read_source(modeling), str(modeling)) if modeling else None
    defined = re.findall(r"^class (\w+)", given.text, re.MULTILINE) if given else []
    if given and not {component.class_name for component in parts}.intersection(defined):
        return [Origin("given", Path(given.name), None, _package_of(given))]
    if not parts:
        raise UnsupportedError(
            f"{index.path}: names no transformer that diffusers {library.version} has",
            hint="fa3 patches transformers of pipelines, not UNets; another diffusers version may have yours",
        )
    found = []
    for part in parts:
        config = component_config(folder, part)
        if given and part.class_name in defined:
            path = Path(given.name)
            inside = _reaches_up(given) or library.folder in path.parents
            package = PACKAGE if inside else _package_of(given)
            found.append(Origin("given", path, part.class_name, package, config, part.name))
        else:
            path = library.transformer_file(part.class_name)
            found.append(Origin("installed", path, part.class_name, PACKAGE, config, part.name))
    return found


def build(library: Diffusers, origin: Origin, options: Options) -> Build:
    """Patch one file; raises the reason if it cannot be patched."""
    source = parse(read_source(origin.path), str(origin.path))
    if origin.package == PACKAGE:
        refuse_attention_elsewhere(library, source, origin.class_name)
    copied = _with_copied_classes(library, origin, source)
    patched = patch_source(
        copied.text,
        name=source.name,
        package=origin.package,
        architecture=origin.class_name,
        attention=options.attention,
        quantizer=options.quantizer,
        rules=checked_rules(options.rules),
        config=origin.config,
    )
    attention = tuple(_in_its_file(attention_class, copied) for attention_class in patched.attention)
    return Build(origin, source.text, replace(patched, source=source.text, attention=attention))


def attention_classes_of(library: Diffusers, origin: Origin, rules: str | Path | None) -> tuple[AttentionClass, ...]:
    """List every attention class of a file, patchable or not, including classes that are copied from other files."""
    source = parse(read_source(origin.path), str(origin.path))
    copied = _with_copied_classes(library, origin, source)
    classes = list_source(copied.text, name=source.name, rules=checked_rules(rules), config=origin.config)
    return tuple(_in_its_file(found, copied) for found in classes)


def _transformers(library: Diffusers, folder: Path, index: Config) -> list[Component]:
    found = []
    for part in components(index):
        own = folder / part.name / f"{part.library}.py"
        if has_quantizer(own):
            raise quantizer_exists_error(own, "undo the other patch, or start from a fresh copy of the folder")
        if own.is_file() and library.defines(part.class_name):
            raise UnsupportedError(
                f"{index.path}: {part.name} is loaded from {own.name}, its own code in the folder",
                hint="make model_index.json load it from diffusers, and pass that file as --modeling if you need it",
            )
        if part.library == "diffusers" and library.defines(part.class_name):
            if not (folder / part.name).is_dir():
                raise InvalidInputError(f"{folder / part.name} is missing, but {index.path} names it")
            found.append(part)
    return found


def _with_copied_classes(library: Diffusers, origin: Origin, source: Source) -> Vendored:
    if origin.package != PACKAGE:
        return Vendored(source.text)
    return vendor(source, library, f"{PACKAGE}.{origin.path.stem}")


def _in_its_file(found: AttentionClass, copied: Vendored) -> AttentionClass:
    """Return a copied class with the path and the line numbers of the file that it was copied from."""
    if found.name not in copied.places:
        return found
    path, shift = copied.places[found.name]
    return replace(found, file=str(path), line=found.line + shift, place=found.place and found.place + shift)


def _reaches_up(source: Source) -> bool:
    return re.search(r"^[ \t]*from[ \t]+\.\.\.", source.text, re.MULTILINE) is not None


def _package_of(source: Source) -> str | None:
    """Return the package of a file, from its parent folders; None without a package and without relative imports."""
    path = Path(source.name)
    folder = path.absolute().parent
    names: list[str] = []
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if names:
        return ".".join(names)
    found = re.search(r"^[ \t]*from[ \t]+\.", source.text, re.MULTILINE)
    if found:
        line = source.text[: found.start()].count("\n") + 1
        raise UnsupportedError(
            f"{path}:{line}: imports files beside it, but {path.absolute().parent} is not a package (it has no __init__.py)",
            hint="give the path of the file inside its repository",
        )
    return None
