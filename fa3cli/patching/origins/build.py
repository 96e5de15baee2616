"""Patches a language model's modeling file, with the checks that need its folder and the installed transformers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from fa3cli.errors import UnsupportedError
from fa3cli.patching.folders.receipt import Options
from fa3cli.patching.guarded import required_packages
from fa3cli.patching.origins.installed import Installed
from fa3cli.patching.origins.needs import missing_names
from fa3cli.patching.origins.origin import Origin, read_source
from fa3cli.patching.origins.siblings import attention_elsewhere, check_siblings
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.source import Source, parse
from fa3cli.patching.sources import PatchedSource, patch_source

__all__ = ["Build", "build"]


@dataclass(frozen=True)
class Build:
    """A modeling file: where it came from, its text, and the patched result."""

    origin: Origin
    text: str
    patched: PatchedSource


def build(installed: Installed, folder: Path, origin: Origin, options: Options) -> Build:
    """Patch the modeling file of a language model; raises the reason if it cannot be patched or loaded."""
    source = parse(read_source(origin.path), str(origin.path))
    elsewhere = []
    if origin.package is None:
        check_siblings(source, folder)
        elsewhere = attention_elsewhere(installed, source, folder, origin.class_name)
    if elsewhere and not options.attention:
        raise UnsupportedError(
            f"{source.name}: {origin.class_name} also uses attention that is not in this file: {', '.join(elsewhere)}",
            hint="fa3 patches one file; --attention CLASS patches only that class of it",
        )
    patched = patch_source(
        source.text,
        name=source.name,
        package=origin.package,
        architecture=origin.class_name,
        attention=options.attention,
        quantizer=options.quantizer,
        native_class=installed.knows_custom_code and origin.is_native,
        rules=checked_rules(options.rules),
        config=origin.config,
    )
    _check_packages(source)
    if origin.kind != "installed":
        _check_names(installed, parse(patched.text, source.name))
    warnings = tuple(f"{name} is not patched: not in this file" for name in elsewhere)
    if origin.instead_of:
        warnings += (f"{origin.instead_of} was patched by hand: it is kept, and auto_map names fa3's file instead",)
    return Build(origin, source.text, replace(patched, warnings=patched.warnings + warnings))


def _check_packages(source: Source) -> None:
    """Refuse a file that needs a package that is not installed."""
    for package, line in required_packages(source).items():
        if importlib.util.find_spec(package) is None:
            raise UnsupportedError(
                f"{source.name}:{line}: imports {package}, which is not installed: transformers refuses to load "
                "such a file",
                hint=f"install {package}",
            )


def _check_names(installed: Installed, patched: Source) -> None:
    """Refuse a file that uses names which the installed transformers does not have."""
    names = missing_names(installed, patched)
    if names:
        raise UnsupportedError(
            f"{patched.name}: made for another transformers than the installed {installed.version}, which lacks "
            f"{', '.join(names)}",
            hint="install the transformers version the file was made for",
        )
