"""Changes one document in place, in the way that its form allows, the same for the same seed."""

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
    """Change a file's meaning, its bytes, or what kind of file it is."""
    what = rng.random()
    if what < 0.07:
        replace(file, rng)
        return
    data = file.read_bytes()
    made = mutated_bytes(data, rng) if what < 0.25 else _FORMS[form](data, rng)
    made = made.replace(WORK.encode(), os.fsencode(work_of(file)))
    file.write_bytes(made + HOSTILE.encode() * (form == "python" and what < 0.25))


def _json(data: bytes, rng: random.Random) -> bytes:
    return mutated_json(data.decode(), rng).encode()


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Change a line of many: a json one as json, another as text."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.15:
        lines[at] = rng.choice(["", "[]", "null", "{", lines[at] * 2, json_literal(rng)])
    elif lines[at].startswith("{"):
        lines[at] = mutated_json(lines[at], rng).replace("\n", "")
    else:
        lines[at] = hostile_text(rng)
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


def _toml(data: bytes, rng: random.Random) -> bytes:
    """Change values and lines of a TOML file; most literals of json are TOML's, too."""
    lines = data.decode().split("\n")
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(lines))
        keyed = [number for number, line in enumerate(lines) if re.match(r"\w+ = ", line)]
        if keyed and rng.random() < 0.6:
            at = rng.choice(keyed)
            lines[at] = f"{lines[at].partition(' = ')[0]} = {json_literal(rng)}"
        elif rng.random() < 0.4:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif rng.random() < 0.5:
            del lines[at]
        else:
            lines.insert(
                at,
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
    """Change the header, mostly with the right length before it, or the length."""
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.1:
        length = rng.choice([0, 1, 7, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + header + values
    text = json.dumps(json.loads(header))  # without the spaces at its end
    made = mutated_json(text, rng).encode()
    return len(made).to_bytes(8, "little") + made + values


def _python(data: bytes, rng: random.Random) -> bytes:
    return mutated_source(data.decode(), rng).encode()


_FORMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _json,
    "lines": _lines,
    "toml": _toml,
    "safetensors": _safetensors,
    "python": _python,
}
