"""Changes one document in place, according to its form and reproducibly by seed."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

from tests.reliability.odd_files import replace, work_of
from tests.reliability.raw_bytes import mutated_bytes
from tests.reliability.sources import HOSTILE, mutated_source
from tests.reliability.trees import mutated_json
from tests.reliability.values import WORK, hostile_text, json_literal

__all__ = ["mutate"]


def mutate(file: Path, form: str, rng: random.Random) -> None:
    """Change a file's content, its bytes, or its file type."""
    share = rng.random()
    if share < 0.07:
        replace(file, rng)
        return
    data = file.read_bytes()
    mutated = mutated_bytes(data, rng) if share < 0.25 else _FORMS[form](data, rng)
    mutated = mutated.replace(WORK.encode(), os.fsencode(work_of(file)))
    file.write_bytes(mutated + HOSTILE.encode() * (form == "python" and share < 0.25))


def _json(data: bytes, rng: random.Random) -> bytes:
    return mutated_json(data.decode(), rng).encode()


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Change one line: a json line as json, another line as text."""
    lines = data.decode().splitlines()
    index = rng.randrange(len(lines))
    if rng.random() < 0.15:
        lines[index] = rng.choice(["", "[]", "null", "{", lines[index] * 2, json_literal(rng)])
    elif lines[index].startswith("{"):
        lines[index] = mutated_json(lines[index], rng).replace("\n", "")
    else:
        lines[index] = hostile_text(rng)
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


def _toml(data: bytes, rng: random.Random) -> bytes:
    """Change values and lines of a TOML file; most literals of json are valid in TOML too."""
    lines = data.decode().split("\n")
    for _ in range(rng.choice([1, 1, 2, 3])):
        index = rng.randrange(len(lines))
        keyed = [number for number, line in enumerate(lines) if re.match(r"\w+ = ", line)]
        if keyed and rng.random() < 0.6:
            index = rng.choice(keyed)
            lines[index] = f"{lines[index].partition(' = ')[0]} = {json_literal(rng)}"
        elif rng.random() < 0.4:
            lines.insert(rng.randrange(len(lines)), lines[index])
        elif rng.random() < 0.5:
            del lines[index]
        else:
            lines.insert(
                index,
                rng.choice(
                    [
                        "[a]",
                        "[[a]]",
                        "a.b.c = 1",
                        "[site]",
                        "x = 1979-05-27",
                        "x = inf",
                        "[" * 5000,
                        "x = '''",
                    ]
                ),
            )
        lines = lines or [""]
    return "\n".join(lines).encode()


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change the length of the header, or the header, in most cases with the right length before it."""
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.1:
        length = rng.choice([0, 1, 7, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + header + values
    text = json.dumps(json.loads(header))  # removes the padding at its end
    mutated = mutated_json(text, rng).encode()
    return len(mutated).to_bytes(8, "little") + mutated + values


def _python(data: bytes, rng: random.Random) -> bytes:
    return mutated_source(data.decode(), rng).encode()


_FORMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _json,
    "lines": _lines,
    "toml": _toml,
    "safetensors": _safetensors,
    "python": _python,
}
