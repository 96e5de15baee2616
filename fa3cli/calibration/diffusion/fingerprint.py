"""Hashes the files that a pipeline's sampling run depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fa3cli.calibration.checkpoint import read_header
from fa3cli.patching.diffusion.index import INDEX

__all__ = ["fingerprints"]


def fingerprints(
    folder: Path, parts: Sequence[str], of_weights: Callable[[Path, Sequence[int]], str]
) -> Iterator[str]:
    """Yield the name and a hash of model_index.json, of code beside it, and of all files in the folders of `parts`.

    A folder may be a link. `of_weights` hashes weights, given the offsets of their tensors; other files are hashed whole.
    """
    files = [folder / INDEX, *sorted(folder.glob("*.py"))]
    files += [file for part in parts for file in sorted((folder / part).glob("**/*"))]
    for file in files:
        if file.is_file():
            yield str(file.relative_to(folder))
            if file.suffix == ".safetensors":
                yield of_weights(file, [info.begin for info in read_header(file.parent, file.name).values()])
            else:
                yield hashlib.sha256(file.read_bytes()).hexdigest()
