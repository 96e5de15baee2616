"""Reads config.json as data and edits it as text, so that order, indentation and line ends of other keys stay."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError
from fa3cli.files.documents import parse_json
from fa3cli.files.reading import read_bytes
from fa3cli.patching.edits import Edit

__all__ = ["CAUSAL_LM", "Config", "CustomClass", "members_of", "read_config", "require_types", "set_auto_map"]

CAUSAL_LM = "AutoModelForCausalLM"
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "transformers_version": (str, "a version such as '4.57.6'"),
    "torch_dtype": ((str, dict), "a dtype such as 'bfloat16'"),
    "dtype": ((str, dict), "a dtype such as 'bfloat16'"),
    "rope_scaling": (dict, "an object"),
    "rope_parameters": (dict, "an object"),
    "_class_name": (str, "the name of a class"),
}
_LONGEST = 100
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class CustomClass:
    """An entry of auto_map: a class, its file, and the hub repository if the file is in another one."""

    repository: str | None
    file: str
    name: str


@dataclass(frozen=True)
class Config:
    """A config.json or model_index.json: its path, its text and its parsed data; both empty if there is no file."""

    path: Path
    text: str
    data: dict[str, Any]

    @property
    def model_type(self) -> str:
        """The model type; raises InvalidInputError if the file has no valid one."""
        found = self.data.get("model_type")
        if found is None and "_class_name" in self.data:
            raise InvalidInputError(
                f"{self.path} belongs to a component of a diffusers pipeline",
                hint="give the pipeline's folder, the one with model_index.json",
            )
        if not isinstance(found, str) or not found or len(found) > _LONGEST:
            raise InvalidInputError(f"{self.path}: model_type is {_brief(found)}, expected a name such as 'qwen2'")
        return found

    @property
    def architecture(self) -> str | None:
        """The first of the architectures, if the file names any."""
        found = self.data.get("architectures")
        if found is None or found == []:
            return None
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InvalidInputError(f"{self.path}: architectures is {_brief(found)}, expected a list of class names")
        first: str = found[0]
        return first

    @property
    def auto_map(self) -> dict[str, Any]:
        """The auto_map, empty if there is none."""
        found = self.data.get("auto_map")
        if found is not None and not isinstance(found, dict):
            raise InvalidInputError(f"{self.path}: auto_map is {_brief(found)}, expected an object")
        return found or {}

    @property
    def causal_lm(self) -> CustomClass | None:
        """The class that auto_map names for AutoModelForCausalLM; None without an entry (some tools write null)."""
        entry = self.auto_map.get(CAUSAL_LM)
        if entry is None:
            return None
        parts = re.fullmatch(r"(?:(.+)--)?([^./\\\0]+)\.(\w+)", entry) if isinstance(entry, str) else None
        if parts is None:
            raise InvalidInputError(
                f"{self.path}: auto_map lets {CAUSAL_LM} load {_brief(entry)}, expected 'file.Class' with a file of its folder"
            )
        return CustomClass(parts[1], f"{parts[2]}.py", parts[3])


def read_config(path: Path, text: str | None = None) -> Config:
    """Read a config.json (or take `text` for it); InvalidInputError if it is missing or not a json object."""
    try:
        text = read_bytes(path).decode("utf-8") if text is None else text
        data = parse_json(text)
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidInputError(
                f"{path} is a broken link to {path.readlink()}", hint="download the model again"
            ) from None
        raise InvalidInputError(f"{path} not found", hint="give the folder that holds the model's weights") from None
    except NotADirectoryError:
        raise InvalidInputError(f"{path.parent}: is a file", hint="give the folder of the weights") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise InvalidInputError(f"{path}: not valid json: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: expected a json object, found {type(data).__name__}")
    return Config(path, text, data)


def require_types(config: Config) -> None:
    """Raise InvalidInputError for a key of a model's config.json whose value has the wrong type."""
    for key, (kind, expected) in _TYPES.items():
        found = config.data.get(key)
        if found is not None and not isinstance(found, kind):
            raise InvalidInputError(f"{config.path}: {key} is {_brief(found)}, expected {expected}")
    for key, entry in config.auto_map.items():
        for name in entry if isinstance(entry, list) else [entry]:
            if name is not None and not isinstance(name, str):
                raise InvalidInputError(
                    f"{config.path}: auto_map lets {key} load {_brief(entry)}, expected 'file.Class'"
                )


def set_auto_map(config: Config, target: str) -> list[Edit]:
    """Return the edits that make AutoModelForCausalLM load `target` (file.Class); none if it already does."""
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


def _gap(text: str, key: int) -> str:
    """Return the white space before a key: line end and indentation, or at least one blank in a one-line document."""
    return text[len(text[:key].rstrip(_SPACE)) : key] or " "


def members_of(text: str, start: int) -> dict[str, tuple[int, int, int]]:
    """Map each key of the (valid) json object at `start` to the offsets of the key, its value, and the value's end.

    The last one of repeated keys counts, as in Python's json module, which transformers uses.
    """
    members, at, decode = {}, _after_space(text, start + 1), json.JSONDecoder().raw_decode
    while text[at] != "}":
        key, after = decode(text, at)
        value = _after_space(text, _after_space(text, after) + 1)
        _, end = decode(text, value)
        members[key] = (at, value, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return members


def _after_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _brief(value: Any) -> str:
    """Return a value as text for a message, cut to a bounded length."""
    text = f"{value!a}" if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
