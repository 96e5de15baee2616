"""Provides hostile values as json text, and names that point outside a folder."""

from __future__ import annotations

import json
import random

__all__ = ["CANARY", "WORK", "hostile_text", "json_literal"]

CANARY = "canary"
"""The folder beside a model whose files no command may open."""

WORK = "@WORK@"
"""Stands for the path of the folder that holds model and canary."""

_NAMES = [
    "../x",
    f"../{CANARY}/x.py",
    f"../{CANARY}/x.X",
    f"../{CANARY}",
    f"../{CANARY}/model.safetensors",
    f"sub/../../{CANARY}/x.json",
    f"../{CANARY}/x--x.X",
    f"{WORK}/{CANARY}/x.py",
    f"{WORK}/{CANARY}/model.safetensors",
    f"{WORK}/{CANARY}",
    "hostile.Hostile",
    "hostile.py",
    "/dev/zero",
    "/",
    ".",
    "..",
    "",
    "x" * 300,
]
_TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "\ud800",
    "\u202e\x1b[31m",
    "long " * 20_000,
    "{}",
    "1",
    "-1",
    "cpu",
    "float99",
    "torch.float64",
    "class",
    "é\u2028",
]
_RAW = [
    "null", "7", "-1", "0", "1", "true", "false", "0.5", "-0.0", "1e400", "-1e400", "NaN", "Infinity", str(10**30), "9" * 5000,
    "1e-320", "2147483648", "9223372036854775808", "[]", "{}", "[[]]", "[null]", '[""]', "[7]", '[1, "a", {}]', '{"": null}',
    '{"a": {"a": 7}}', "[" * 99 + "]" * 99, "[" * 101 + "]" * 101, "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000, "[" + "7," * 100_000 + "7]",
]  # fmt: skip


def hostile_text(rng: random.Random) -> str:
    """Return a text: a name that points elsewhere, or a text that is hard to store or print."""
    return rng.choice(_NAMES if rng.random() < 0.5 else _TEXTS)


def json_literal(rng: random.Random) -> str:
    """Return a hostile value as json text."""
    return rng.choice(_RAW) if rng.random() < 0.65 else json.dumps(hostile_text(rng))
