"""Changes the bytes of a file regardless of its format."""

from __future__ import annotations

import random

__all__ = ["mutated_bytes"]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut, encoded in another way, or have some bytes flipped, inserted or removed."""
    kind = rng.choice(["cut", "empty", "bom", "utf-16", "latin", "flip", "flip", "insert", "remove", "twice", "zeros"])
    position = rng.randrange(len(data) + 1)
    if kind == "cut":
        return data[:position]
    if kind == "empty":
        return rng.choice([b"", b"\n", b" ", b"\xef\xbb\xbf", b"\x00" * 8])
    if kind == "bom":
        return b"\xef\xbb\xbf" + data
    if kind == "utf-16":
        return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-be", "utf-32"]))
    if kind == "latin":
        return data[:position] + b"\xe9\xff\xc0\xaf" + data[position:]
    if kind == "insert":
        return data[:position] + rng.randbytes(rng.randint(1, 9)) + data[position:]
    if kind == "remove":
        return data[:position] + data[position + rng.randint(1, 99) :]
    if kind == "twice":
        return data + data
    if kind == "zeros":
        return data[:position] + b"\x00" * rng.randint(1, 99) + data[position + 99 :]
    return _flipped(data, rng)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
