"""model_index.json: which transformers a pipeline has, and the edits that let it load others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.patching.config_json import Config, members_of, read_config
from fa3cli.patching.edits import Edit

__all__ = ["INDEX", "Component", "component_config", "components", "set_modules", "take_out"]

INDEX = "model_index.json"


@dataclass(frozen=True)
class Component:
    """A part of a pipeline: its folder's name, the library (or the file of its folder) and the class it is loaded by."""

    name: str
    library: str
    class_name: str


def components(index: Config) -> list[Component]:
    """The parts that model_index.json names, in its order; those left out (null) aren't parts."""
    pairs = {name: value for name, value in index.data.items() if isinstance(value, list)}
    whole = {
        name: pair
        for name, pair in pairs.items()
        if len(pair) == 2 and all(isinstance(each, str) for each in pair)
    }
    for name in whole:
        if Path(name).name != name or name in (".", ".."):
            raise InvalidInputError(f"{index.path}: {name!r} is no name of a folder beside it")
    return [Component(name, *pair) for name, pair in whole.items()]


def component_config(folder: Path, component: Component) -> dict[str, Any]:
    """What the config.json of a part says, empty without one."""
    path = folder / component.name / "config.json"
    return read_config(path).data if path.exists() else {}


def set_modules(index: Config, modules: Mapping[str, str]) -> list[Edit]:
    """The edits that let parts be loaded from a file of their folder: part -> the file's name without `.py`."""
    found = members_of(index.text, index.text.index("{"))
    edits = []
    for name, module in modules.items():
        start = index.text.index('"', found[name][1])
        end = json.JSONDecoder().raw_decode(index.text, start)[1]
        edits.append(Edit(start, index.text[start:end], json.dumps(module)))
    return sorted(edits, key=lambda edit: edit.offset)


def take_out(index: Config, edits: tuple[Edit, ...]) -> str:
    """The text of an index changed by hand since `edits` were made, without them; ConflictError if they are gone."""
    text = index.text
    for edit in {each.inserted: each for each in edits}.values():
        if edit.inserted not in text:
            raise ConflictError(f"{index.path}: cannot tell what fa3 wrote there from what was changed since")
        text = text.replace(edit.inserted, edit.removed)
    return text
