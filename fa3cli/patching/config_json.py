"""config.json, read as data and edited as text: what isn't ours keeps its order, indentation and line ends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.patching.edits import Edit

__all__ = ["CAUSAL_LM", "Config", "CustomClass", "members_of", "read_config", "set_auto_map", "take_out"]

CAUSAL_LM = "AutoModelForCausalLM"
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class CustomClass:
    """What an entry of auto_map names: a class, the file it is in, and the hub repository if that is another one."""

    repository: str | None
    file: str
    name: str


@dataclass(frozen=True)
class Config:
    """A config.json: its text as it is in the file, and what it says."""

    path: Path
    text: str
    data: dict[str, Any]

    @property
    def model_type(self) -> str:
        """The model type; InvalidInputError if the file names none."""
        found = self.data.get("model_type")
        if found is None and "_class_name" in self.data:
            raise InvalidInputError(
                f"{self.path} is that of a part of a diffusers pipeline",
                hint="give the pipeline's folder, the one with model_index.json",
            )
        if not isinstance(found, str) or not found:
            raise InvalidInputError(f"{self.path}: model_type is {found!r}, expected a name such as 'qwen2'")
        return found

    @property
    def architecture(self) -> str | None:
        """The first of the architectures, if the file names any."""
        found = self.data.get("architectures") or [None]
        if not isinstance(found, list) or not isinstance(found[0], (str, type(None))):
            raise InvalidInputError(
                f"{self.path}: architectures is {found!r}, expected a list of class names"
            )
        return found[0]

    @property
    def auto_map(self) -> dict[str, Any]:
        """The auto_map, empty if there is none."""
        found = self.data.get("auto_map") or {}
        if not isinstance(found, dict):
            raise InvalidInputError(f"{self.path}: auto_map is {found!r}, expected an object")
        return found

    @property
    def causal_lm(self) -> CustomClass | None:
        """The class auto_map lets AutoModelForCausalLM load; None if it names none (or null, as some tools write)."""
        entry = self.auto_map.get(CAUSAL_LM)
        if entry is None:
            return None
        parts = re.fullmatch(r"(?:(.+)--)?([^./\\]+)\.(\w+)", entry) if isinstance(entry, str) else None
        if parts is None:
            raise InvalidInputError(
                f"{self.path}: auto_map lets {CAUSAL_LM} load {entry!r}, expected 'file.Class' with a file of its folder"
            )
        return CustomClass(parts[1], f"{parts[2]}.py", parts[3])


def read_config(path: Path, text: str | None = None) -> Config:
    """Read a config.json (or take `text` for it); InvalidInputError if it is missing or not a json object."""
    try:
        text = path.read_bytes().decode("utf-8") if text is None else text
        data = json.loads(text.removeprefix("\ufeff"))
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidInputError(
                f"{path} is a broken link to {path.readlink()}", hint="download the model again"
            ) from None
        raise InvalidInputError(
            f"{path} not found", hint="give the folder that holds the model's weights"
        ) from None
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid json: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: expected a json object, found {type(data).__name__}")
    return Config(path, text, data)


def set_auto_map(config: Config, target: str) -> list[Edit]:
    """The edits that let AutoModelForCausalLM load `target` (file.Class); none if it does already."""
    if config.auto_map.get(CAUSAL_LM) == target:
        return []
    text, entry = config.text, f'"{CAUSAL_LM}": {json.dumps(target)}'
    members = members_of(text, text.index("{"))
    if config.auto_map:
        inner = members_of(text, members["auto_map"][1])
        if CAUSAL_LM in inner:
            _, start, end = inner[CAUSAL_LM]
            return [Edit(start, text[start:end], json.dumps(target))]
        first = min(key for key, _, _ in inner.values())
        return [Edit(first, "", f"{entry},{_gap(text, first)}")]
    if "auto_map" in members:
        _, start, end = members["auto_map"]
        return [Edit(start, text[start:end], f"{{{entry}}}")]
    key, _, end = members.get("architectures") or members["model_type"]
    gap = _gap(text, key)
    inside = gap + gap.strip("\r\n") if "\n" in gap else ""
    outside = gap if "\n" in gap else ""
    return [Edit(end, "", f',{gap}"auto_map": {{{inside}{entry}{outside}}}')]


def take_out(config: Config, edits: list[Edit]) -> str:
    """The text of a config changed by hand since `edits` were made, without them; ConflictError if they can't be told."""
    text = config.text
    for edit in edits:
        if text.count(edit.inserted) != 1:
            raise ConflictError(
                f"{config.path}: cannot tell what fa3 inserted from what was changed since",
                hint=f"take the {CAUSAL_LM} entry out of auto_map by hand",
            )
        text = text.replace(edit.inserted, edit.removed)
    return text


def _gap(text: str, key: int) -> str:
    """The white space in front of a key: a line end and its indentation, or nothing or a blank on one line."""
    return re.search(r"[ \t\r\n]*\Z", text[:key]).group() or " "


def members_of(text: str, start: int) -> dict[str, tuple[int, int, int]]:
    """For each key of the (valid) object at `start`: where the key begins, its value begins and ends."""
    members, at = {}, _SPACE.match(text, start + 1).end()
    while text[at] != "}":
        key, after = json.decoder.scanstring(text, at + 1)
        value = _SPACE.match(text, _SPACE.match(text, after).end() + 1).end()
        end = json.JSONDecoder().raw_decode(text, value)[1]
        members[key] = (at, value, end)
        at = _SPACE.match(text, end).end()
        if text[at] == ",":
            at = _SPACE.match(text, at + 1).end()
    return members
