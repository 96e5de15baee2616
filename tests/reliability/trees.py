"""Changes values, keys and shape of a json document, and gives the text that a json library might not write."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from tests.reliability.values import hostile_text, json_literal

__all__ = ["mutated_json"]

Place = tuple[Any, Any]
"""A dict or list, and the key or index in it."""


def mutated_json(text: str, rng: random.Random) -> str:
    """Return a json text with one to three changes; rarely another document in its place."""
    if rng.random() < 0.03:
        return json_literal(rng)
    document, raw = json.loads(text), {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(document))
        if places:
            _change(*rng.choice(places), places, raw, rng)
    made = json.dumps(document, indent=2)
    for mark, literal in raw.items():
        made = made.replace(json.dumps(mark), literal)
    return made


def _places(value: Any) -> Iterator[Place]:
    """Yield every place of a document."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    ):
        yield value, key
        yield from _places(value[key])


def _change(parent: Any, key: Any, places: list[Place], raw: dict[str, str], rng: random.Random) -> None:
    """Make one change at a place; `raw` gets the text that marks stand for."""
    kind = rng.choice(
        ["value"] * 8 + ["other value"] * 2 + ["delete", "delete", "rename", "duplicate", "add"]
    )
    if kind in ("duplicate", "rename", "add") and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif kind == "delete":
        del parent[key]
    elif kind == "rename":
        parent[hostile_text(rng)] = parent.pop(key)
    elif kind == "other value":
        other, other_key = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else None
    else:
        mark = f"@@{len(raw)}@@"
        raw[mark] = json.dumps(key) if kind == "duplicate" else json_literal(rng)
        if kind == "duplicate":  # a key that is there twice
            parent[mark] = rng.choice([7, None, [], parent[key]])
        else:
            parent[key if kind == "value" else "a_key_nobody_knows"] = mark


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))
