"""Damages documents at random, reproducibly by seed, for tests of readers."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

__all__ = ["SEEDS", "mutated_json", "mutated_tensors", "mutated_toml"]

SEEDS = range(300)
DEEP, HUGE = "DEEP", "HUGE"
VALUES: list[Any] = [
    *(None, True, False, 7, 0, -1, 3, 2**31, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308),
    *(float("inf"), float("-inf"), float("nan")),
    *("", ".", "..", "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "x" * 5000, "W8A8", "FLOAT", "7"),
    *([], {}, [[]], [None], [7], ["a", "a"], {"a": None}, {"": {}}, {"a": [1, "b"]}, DEEP, HUGE),
]
# json.dumps cannot nest so deep or write such numbers, so these stand-ins are replaced in its output.
_LITERALS = {f'"{DEEP}"': "[" * 100_000 + "]" * 100_000, f'"{HUGE}"': "9" * 5000}


def mutated_json(document: Any, seed: int) -> bytes:
    """Return a document with a value replaced, a key removed, repeated or renamed, or its text damaged."""
    rng, data = random.Random(seed), copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 3))):
        data = _changed(data, rng)
    text = json.dumps(data)
    for stand_in, literal in _LITERALS.items():
        text = text.replace(stand_in, literal)
    if rng.random() < 0.05 and '": ' in text:  # a repeated key
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    return _damaged(text.encode(), rng) if rng.random() < 0.2 else text.encode()


def mutated_toml(text: str, seed: int) -> bytes:
    """Return TOML text that is damaged or has a value replaced."""
    rng, lines = random.Random(seed), text.splitlines()
    if rng.random() < 0.2:
        return _damaged(text.encode(), rng)
    place = rng.randrange(len(lines))
    key = rng.choice((lines[place].partition("=")[0].strip(), "fa_amp", "pr", "w_bit", "model_types"))
    value = rng.choice(
        [
            *(
                "7",
                "-1",
                "0",
                "true",
                '"x"',
                '""',
                "[]",
                "[7]",
                "{}",
                "{a = 1}",
                "nan",
                "-inf",
                "1e400",
                "0x" + "f" * 5000,
            ),
            *(
                "9" * 5000,
                "1979-05-27",
                "07:32:00",
                "1979-05-27T07:32:00Z",
                "[" * 2000 + "]" * 2000,
                '"L" ',
                '"L٣"',
            ),
            *('"\\u0000"', "'''a'''", '["a", 1]', '"L' + "9" * 5000 + '"', "0.5", "[[1]]", '[{a = "b"}]', ""),
        ]
    )
    lines[place] = f"{key} = {value}"
    return "\n".join(lines).encode()


def mutated_tensors(raw: bytes, seed: int) -> bytes:
    """Return a safetensors file with a mutated header, a changed shape, or damaged bytes."""
    rng = random.Random(seed)
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return _damaged(raw, rng)
    if kind == 1:
        return struct.pack("<Q", rng.choice((0, 1, 2**31, 10**18, 2**64 - 1))) + raw[8:]
    if kind == 2:
        changed = mutated_json(header, seed)
    else:  # a valid file with another dtype and shape
        entry = header[rng.choice([name for name in header if name != "__metadata__"])]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["dtype"], entry["shape"] = rng.choice(
            (
                ("I8", [size]),
                ("U8", [1, size]),
                ("BOOL", [size, 1, 1]),
                ("F8_E4M3", [size]),
                ("F8_E8M0", [size]),
                ("F4", [2 * size]),
                ("U64", [size // 8]),
                ("C64", [size // 8]),
                ("I8", [size, 1]),
                ("F32", [size // 4]),
                ("BF16", [1, 1, size // 2]),
            )
        )
        changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + data


def _changed(data: Any, rng: random.Random) -> Any:
    """Return a document with one random change."""
    places = list(_places(data)) if isinstance(data, (dict, list)) else []
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.7:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(("", "\ud800", "a\0b", "../x", "x" * 3000, "a.weight", "7"))] = holder.pop(key)
    else:
        holder.append(copy.deepcopy(rng.choice(VALUES)))
    return data if rng.random() < 0.97 else rng.choice(VALUES)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the holder and the key of every value in a document."""
    waiting = [data]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])


def _damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut short, or of which some are changed, repeated or removed."""
    data = bytearray(raw)
    if not data or rng.random() < 0.3:
        return bytes(data[: rng.randrange(len(data) + 1)])
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:place] = rng.choice((b"\xff", b"\0", b"{", b'"', b"\\ud800", b"\xef\xbb\xbf"))
        elif kind == 2:
            del data[place : place + rng.randrange(1, 20)]
        else:
            data[place:place] = data[place : place + 30]
        if not data:
            break
    return bytes(data)
