"""The patch of a folder's modeling file, with every check that needs the folder and the installed transformers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from fa3cli.errors import UnsupportedError
from fa3cli.patching.config_json import Config
from fa3cli.patching.guarded import required_packages
from fa3cli.patching.installed import Installed
from fa3cli.patching.needs import lacking
from fa3cli.patching.origin import Origin, find_origin, read_source
from fa3cli.patching.receipt import Options
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.siblings import attention_elsewhere, check_siblings
from fa3cli.patching.source import Source, parse
from fa3cli.patching.sources import PatchedSource, patch_source

__all__ = ["Build", "build"]


@dataclass(frozen=True)
class Build:
    """Where a modeling file came from, its bytes, and what became of it."""

    origin: Origin
    data: bytes
    patched: PatchedSource


def build(installed: Installed, config: Config, options: Options) -> Build:
    """Find the modeling file of a folder and patch it, or raise what keeps it from being patched or loaded."""
    origin = find_origin(installed, config, Path(options.modeling) if options.modeling else None)
    data = read_source(origin.path)
    source = parse(data, str(origin.path))
    elsewhere = []
    if origin.package is None:
        check_siblings(source, config.path.parent)
        elsewhere = attention_elsewhere(installed, source, config.path.parent, origin.class_name)
    if elsewhere and not options.attention:
        raise UnsupportedError(
            f"{source.name}: {origin.class_name} is also built of attention that is not in this file: "
            f"{', '.join(elsewhere)}",
            hint="fa3 patches one file; --attention CLASS patches that class of it and nothing else",
        )
    patched = patch_source(
        data,
        name=str(origin.path),
        package=origin.package,
        architecture=origin.class_name,
        attention=options.attention,
        quantizer=options.quantizer,
        native_class=installed.knows_custom_code and origin.is_native,
        rules=checked_rules(options.rules),
        config=config.data,
    )
    _check_packages(source)
    if origin.kind != "installed":
        _check_names(installed, parse(patched.text, source.name))
    warnings = tuple(f"{each} is not patched: not in this file" for each in elsewhere)
    return Build(origin, data, replace(patched, warnings=patched.warnings + warnings))


def _check_packages(source: Source) -> None:
    """Refuse a file that can't be loaded without a package this environment hasn't."""
    for package, line in required_packages(source).items():
        if importlib.util.find_spec(package) is None:
            raise UnsupportedError(
                f"{source.name}:{line}: imports {package}, which is not installed: transformers refuses to load "
                "such a file",
                hint=f"install {package}",
            )


def _check_names(installed: Installed, patched: Source) -> None:
    """Refuse a file that was made for another transformers than the installed one."""
    names = lacking(installed, patched)
    if names:
        raise UnsupportedError(
            f"{patched.name}: made for another transformers than the installed {installed.version}, which lacks "
            f"{', '.join(names)}",
            hint="install the transformers version the file was made for",
        )
