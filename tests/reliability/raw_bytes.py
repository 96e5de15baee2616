"""Changes the bytes of a file without knowing what they mean."""

from __future__ import annotations

import random

__all__ = ["mutated_bytes"]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut, in another encoding, or have a few of them flipped, inserted or removed."""
    kind = rng.choice(
        ["cut", "empty", "bom", "utf-16", "latin", "flip", "flip", "insert", "remove", "twice", "zeros"]
    )
    at = rng.randrange(len(data) + 1)
    if kind == "cut":
        return data[:at]
    if kind == "empty":
        return rng.choice([b"", b"\n", b" ", b"\xef\xbb\xbf", b"\x00" * 8])
    if kind == "bom":
        return b"\xef\xbb\xbf" + data
    if kind == "utf-16":
        return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-be", "utf-32"]))
    if kind == "latin":
        return data[:at] + b"\xe9\xff\xc0\xaf" + data[at:]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:]
    if kind == "remove":
        return data[:at] + data[at + rng.randint(1, 99) :]
    if kind == "twice":
        return data + data
    if kind == "zeros":
        return data[:at] + b"\x00" * rng.randint(1, 99) + data[at + 99 :]
    return _flipped(data, rng)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
