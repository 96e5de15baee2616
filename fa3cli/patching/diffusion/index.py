"""Reads the components of a pipeline from model_index.json, and makes the edits that load them from other files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError
from fa3cli.files.reading import is_file_name
from fa3cli.patching.edits import Edit
from fa3cli.patching.folders.config_json import Config, members_of, read_config, require_types

__all__ = ["INDEX", "Component", "component_config", "components", "set_modules"]

INDEX = "model_index.json"
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Component:
    """A component of a pipeline: the name of its folder, the library (or a file of the folder), and its class."""

    name: str
    library: str
    class_name: str


def components(index: Config) -> list[Component]:
    """Return the components that model_index.json names, in its order, without omitted ones (null).

    Raises InvalidInputError if a key is the name of a folder, but its value is of another kind. Also raises it if a
    component's name cannot be the name of a folder.
    """
    class_name, found = index.data.get("_class_name"), []
    names = class_name if isinstance(class_name, list) and len(class_name) == 2 else [class_name]
    if class_name is not None and not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"{index.path}: _class_name is {class_name!a:.100}, expected a pipeline's class")
    for name, value in index.data.items():
        pair = value if isinstance(value, list) and len(value) == 2 else None
        if pair and all(isinstance(part, str) for part in pair):
            if not _is_name(name) or not _is_name(pair[0]):
                raise InvalidInputError(
                    f"{index.path}: {name!a}: {pair!a} is not a component, expected the name of a folder "
                    "beside it, with a library and a class"
                )
            found.append(Component(name, *pair))
        elif value not in (None, [None, None]) and _is_name(name) and (index.path.parent / name).is_dir():
            raise InvalidInputError(f"{index.path}: {name} is {value!a:.100}, expected a library and a class, or null")
    return found


def component_config(folder: Path, component: Component) -> dict[str, Any]:
    """Return the data of a component's config.json, empty without one."""
    path = folder / component.name / "config.json"
    if not os.path.lexists(path):
        return {}
    config = read_config(path)
    require_types(config)
    return config.data


def set_modules(index: Config, modules: Mapping[str, str]) -> list[Edit]:
    """Return the edits that make components load from a file of their folder: component -> file name without `.py`."""
    found = members_of(index.text, index.text.index("{"))
    edits = []
    for name, module in modules.items():
        start = index.text.index('"', found[name][1])
        end = json.JSONDecoder().raw_decode(index.text, start)[1]
        edits.append(Edit(start, index.text[start:end], json.dumps(module)))
    return sorted(edits, key=lambda edit: edit.offset)


def _is_name(name: str) -> bool:
    """Tell whether a text is the name of one file or folder."""
    return is_file_name(name) and len(name) <= _LONGEST_NAME
