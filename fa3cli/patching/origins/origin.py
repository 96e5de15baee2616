"""Finds a model's modeling file: in the installed transformers, in the weights folder, or the one that was given."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.files.reading import read_bytes
from fa3cli.patching.folders.config_json import Config, CustomClass
from fa3cli.patching.origins.installed import Installed

__all__ = ["Origin", "find_origin", "has_quantizer", "installed_origin", "quantizer_exists_error", "read_source"]

_HINT = "download that file beside the weights and remove the repository before its name from auto_map"


@dataclass(frozen=True)
class Origin:
    """A modeling file and the class that is loaded from it (None: no index names it).

    `kind` is installed, folder or given. `package` is the package of the relative imports, None if they refer to other
    files of the folder. `config` is the data of the model's config.json, `component` the part of a pipeline. With
    `is_native`, transformers' own class loads the unpatched weights. `instead_of` is a file of the folder that was
    patched by hand.
    """

    kind: str
    path: Path
    class_name: str | None
    package: str | None
    config: Mapping[str, Any] = field(default_factory=dict)
    component: str | None = None
    is_native: bool = False
    instead_of: Path | None = None


def find_origin(installed: Installed, config: Config, modeling: Path | None = None) -> Origin:
    """Find the modeling file to patch: `modeling` if given, else the file in auto_map, else transformers' own.

    Raises UnsupportedError if there is none or it is in another hub repository, InvalidInputError if it is missing.
    """
    custom = config.causal_lm
    if modeling is not None:
        return _given(installed, config, modeling, custom)
    return _of_folder(installed, config, custom) if custom else installed_origin(installed, config)


def read_source(path: Path) -> bytes:
    """Read the bytes of a modeling file; raises InvalidInputError if it cannot be read."""
    try:
        return read_bytes(path)
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        said = f"is a broken link to {path.readlink()}" if broken else error.strerror
        raise InvalidInputError(f"modeling file {path}: {said}") from None


def quantizer_exists_error(path: str | Path, hint: str) -> ConflictError:
    """Return the error for a file that already has a quantizer."""
    return ConflictError(f"{path} already has a fa_quantizer that fa3 did not add", hint=hint)


def has_quantizer(path: Path) -> bool:
    """Tell whether a file exists and mentions fa_quantizer."""
    try:
        return b"fa_quantizer" in read_bytes(path)
    except OSError:
        return False


def installed_origin(installed: Installed, config: Config) -> Origin:
    """Find transformers' own file of a model, regardless of auto_map; raises UnsupportedError if there is none."""
    found = installed.modeling_file(config.model_type)
    architecture = config.architecture or found.causal_lm
    if architecture != found.causal_lm:
        raise UnsupportedError(
            f"{config.path}: architectures[0] is {architecture}, the causal language model of {config.model_type} "
            f"is {found.causal_lm}"
        )
    _check_config_class(installed, config)
    return Origin("installed", found.path, architecture, found.package, config.data, is_native=True)


def _of_folder(installed: Installed, config: Config, custom: CustomClass) -> Origin:
    path = config.path.parent / custom.file
    if custom.repository:
        own = ", or all of auto_map to patch transformers' own code" * installed.knows(config.model_type)
        raise UnsupportedError(
            f"{config.path}: auto_map loads {custom.name} from {custom.file} of another repository, "
            f"{custom.repository}",
            hint=_HINT + own,
        )
    if not os.path.lexists(path):
        raise InvalidInputError(
            f"{path} is missing, but auto_map of {config.path} names it",
            hint="download it beside the weights, or pass it as --modeling",
        )
    return Origin("folder", path, custom.name, None, config.data)


def _given(installed: Installed, config: Config, path: Path, custom: CustomClass | None) -> Origin:
    class_name = custom.name if custom else config.architecture
    # Only a file of a package can import with two dots; above a file that came with weights there is no package.
    in_package = installed.folder in path.absolute().parents or re.search(
        rb"^[ \t]*from[ \t]+\.\.", read_source(path), re.MULTILINE
    )
    if in_package:
        _check_config_class(installed, config)
    if in_package or class_name is None:
        found = installed.modeling_file(config.model_type)
        class_name = class_name or found.causal_lm
    package = found.package if in_package else None
    is_native = bool(in_package) or custom is None
    return Origin("given", path, class_name, package, config.data, is_native=is_native)


def _check_config_class(installed: Installed, config: Config) -> None:
    """Refuse a configuration class of the folder that transformers' own model class does not accept."""
    entry, native = config.auto_map.get("AutoConfig"), installed.config_class(config.model_type)
    if native and isinstance(entry, str) and entry.rpartition(".")[2] != native:
        raise UnsupportedError(
            f"{config.path}: auto_map lets AutoConfig load {entry}, but {config.model_type} needs a {native}: "
            "a patched model could not be loaded",
            hint="remove AutoConfig from auto_map if the weights belong to transformers' own model",
        )
