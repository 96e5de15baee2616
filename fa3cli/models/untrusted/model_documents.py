"""Checks config.json, tokenizer_config.json and index files before transformers and diffusers read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.files.documents import parse_json
from fa3cli.files.reading import is_file_name

__all__ = ["checked_document"]

_FETCH = "fetch the folder again"
# No model has larger counts, and transformers would build lists of that length.
_MOST = 100_000
_COUNTED = ("layer", "head", "expert", "label", "depth")
# Keys of tokenizer_config.json whose values transformers opens as file paths.
_PATHS = ("_file", "_files", "_spm", "_dir")
_ALSO_PATHS = ("vocab", "merges", "model_proto", "mecab_option", "sudachi_config_path", "init_inputs")


def checked_document(file: Path, data: bytes) -> bytes:
    """Return the bytes of a model's document without paths of other files.

    Raises InvalidInputError for a broken document, ConflictError for one that makes transformers load other code or
    another document.
    """
    if file.name == "tokenizer_config.json":
        return _tokenizer_config(file, data)
    if file.name == "config.json":
        _check_config(file, _parsed(file, data))
    elif file.name.endswith(".safetensors.index.json"):
        _check_index(file, _parsed(file, data))
    return data


def _tokenizer_config(file: Path, data: bytes) -> bytes:
    """Return a tokenizer's configuration without paths, which tools leave in it: only the folder's own files are read."""
    found = _parsed(file, data)
    if found.get("gguf_file") is not None:
        raise InvalidInputError(
            f"{file}: gguf_file is {found['gguf_file']!r}, but a folder's tokenizer must not be a GGUF file",
            hint="remove gguf_file, and copy the tokenizer's own files into the folder",
        )
    cleaned = _without_paths(found)
    # Without a path in it, the document stays as it is, byte for byte.
    return data if cleaned == found else json.dumps(cleaned).encode()


def _without_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not _is_path(key, item)}
    return value


def _is_path(key: str, value: Any) -> bool:
    """Tell whether transformers could open a value as a path, or as a list with a path outside the folder."""
    if not key.endswith(_PATHS) and key not in _ALSO_PATHS:
        return False
    if isinstance(value, list):  # a list of the folder's files, one per range of transformers versions
        return key == "init_inputs" or not all(is_file_name(name) for name in value)
    return value is None or isinstance(value, str)  # null would override the folder's own file


def _check_config(file: Path, config: dict[str, Any]) -> None:
    if config.get("configuration_files"):
        raise ConflictError(
            f"{file}: configuration_files makes transformers read {config['configuration_files']!r} instead",
            hint="remove configuration_files if config.json is right, or pass --trust-remote-code if you trust the folder",
        )
    for key, value in _values(config):
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise ConflictError(
                f"{file}: {key} makes transformers fetch code of {value}",
                hint="remove it, or pass --trust-remote-code if you trust that code",
            )
        if isinstance(value, (int, float)) and any(part in key for part in _COUNTED) and not abs(value) <= _MOST:
            raise InvalidInputError(f"{file}: {key} is {value}, more than any model has", hint=_FETCH)


def _values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values in a document with their keys; items of a list get the key of the list."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _values(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, key)
    else:
        yield key, value


def _check_index(file: Path, index: dict[str, Any]) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict):
        raise InvalidInputError(f"{file}: weight_map is not an object", hint=_FETCH)
    for name, shard in shards.items():
        if not (is_file_name(shard) and shard.endswith(".safetensors")):
            raise InvalidInputError(
                f"{file}: {name} is in {shard!r}, expected a safetensors file beside it", hint=_FETCH
            )


def _parsed(file: Path, data: bytes) -> dict[str, Any]:
    try:
        found = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{file}: not valid json ({error})", hint=_FETCH) from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{file}: expected a json object, found {type(found).__name__}", hint=_FETCH)
    return found
