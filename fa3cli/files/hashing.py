"""Hashes texts and weight files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["fingerprint", "sha256_of"]


def sha256_of(*parts: str | bytes) -> str:
    """Return one hash of several texts; the hash depends on where one text ends and the next begins."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def fingerprint(file: Path, begins: Iterable[int]) -> str:
    """Hash a file's size, the start of each tensor, and 256 blocks of 4 KB spread over it: a sample that is fast to read."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        # Begins of tensors, too: a small tensor may lie between two of the blocks.
        for start in sorted({*range(0, size, max(size // 256, 4096)), *begins}):
            stream.seek(start)
            digest.update(stream.read(4096))
    return digest.hexdigest()
