"""Changes values, keys and shape of a json document, also to text that json libraries would not write."""

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
    """Return a json text with one to three changes; rarely a completely different document."""
    if rng.random() < 0.03:
        return json_literal(rng)
    document, raw = json.loads(text), {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(document))
        if places:
            _change(*rng.choice(places), places, raw, rng)
    mutated = json.dumps(document, indent=2)
    for mark, literal in raw.items():
        mutated = mutated.replace(json.dumps(mark), literal)
    return mutated


def _places(value: Any) -> Iterator[Place]:
    """Yield every place of a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0):
        yield value, key
        yield from _places(value[key])


def _change(parent: Any, key: Any, places: list[Place], raw: dict[str, str], rng: random.Random) -> None:
    """Make one change at a place; a mark in the document stands for a text that is added to `raw`."""
    kind = rng.choice(["value"] * 8 + ["other value"] * 2 + ["delete", "delete", "rename", "duplicate", "add"])
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
        if kind == "duplicate":  # the mark becomes the same key again
            parent[mark] = rng.choice([7, None, [], parent[key]])
        else:
            parent[key if kind == "value" else "a_key_nobody_knows"] = mark


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))
