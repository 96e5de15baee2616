"""Changes Python source: its lines and tokens, and structures that are hard on what walks a syntax tree."""

from __future__ import annotations

import random
import re

__all__ = ["HOSTILE", "mutated_source"]

HOSTILE = "import os\n\nopen(os.environ['FA3_CANARY'] + '/ran', 'w').close()\n"
"""Code that opens a file of the canary when it is run."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = [
    "self",
    "x",
    "None",
    "q",
    "return",
    "yield",
    "await",
    "lambda",
    "class",
    "def",
    "(",
    ")",
    ":",
    "*",
    "=",
    ".",
    "@",
    "7",
    "",
]
_LINES = [
    "global x\nx = 1",
    "x = 1\nglobal x",
    "from . import nothing",
    "from .hostile import *",
    "from .. import canary",
    f"import {'a.' * 500}a",
    "class Loop(Loop): pass",
    "class A(B): pass\nclass B(A): pass",
    "def f(f=lambda: f): return f",
    "raise SystemExit(7)",
    "x = '" + "\\N{no such name}'",
    "# -*- coding: utf-7 -*-",
    "match x:\n    case {**rest}: pass",
    "x: " + "list[" * 90 + "int" + "]" * 90,
    "\f",
    "x = 0x" + "f" * 5000,
    "x = " + "9" * 5000,
]


def mutated_source(text: str, rng: random.Random) -> str:
    """Return a changed modeling file that would leave a trace if it were run."""
    if rng.random() < 0.2:
        text = _structured(text, rng)
    for _ in range(rng.choice([1, 1, 2, 5])):
        text = _line_changed(text, rng) if rng.random() < 0.5 else _token_changed(text, rng)
    return HOSTILE + text


def _line_changed(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(["remove", "double", "swap", "dedent", "indent", "known", "join"])
    if kind == "remove":
        del lines[at : at + rng.randint(1, 4)]
    elif kind == "double":
        lines.insert(other, lines[at])
    elif kind == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "dedent":
        lines[at] = lines[at].lstrip()
    elif kind == "indent":
        lines[at] = f"    {lines[at]}"
    elif kind == "join":
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    else:
        indent = " " * (len(lines[at]) - len(lines[at].lstrip()))
        lines.insert(at, "\n".join(indent + line for line in rng.choice(_LINES).split("\n")))
    return "\n".join(lines)


def _token_changed(text: str, rng: random.Random) -> str:
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return rng.choice(_LINES)
    found = rng.choice(tokens)
    word = rng.choice(_WORDS) if rng.random() < 0.4 else rng.choice(tokens).group()
    return f"{text[: found.start()]}{word}{text[found.end() :]}"


def _structured(text: str, rng: random.Random) -> str:
    """Put something deep, long or circular into the file, at its end or into a forward."""
    deep = rng.choice([90, 190, 1000, 5000])
    names = [rng.choice("qkv") for _ in range(2)]
    body = rng.choice(
        [
            ["if x is None: pass"] + [f"elif x == {number}: q = k" for number in range(deep)],
            ["q = " + " + ".join([names[0]] * deep)],
            ["q = " + "(" * deep + names[0] + ")" * deep],
            ["q = " + "[" * deep + names[0] + "]" * deep],
            ["q = " + "-" * deep + "1"],
            ["q = " + "not " * deep + "x"],
            ["q = k" + ".view(1)" * deep],
            ["q = k" + "[0]" * deep],
            ["q = " + "lambda: " * deep + "k"],
            [f"{' ' * level}if x:" for level in range(min(deep, 98))] + [" " * 98 + "q = k"],
            [f"{name}, q = q, k" for name in names * (deep // 2)],
            ["q = " + " if x else ".join([names[0]] * deep)],
            ["q = f'" + "{" * 2 + "q" + "}" * 2 + "'" + " 'a'" * deep],
        ]
    )
    forwards = [found.end() for found in re.finditer(r"def forward\([^\n]*\):\n", text)]
    if rng.random() < 0.2 or not forwards:
        bases = "\n".join(f"class C{n}(C{(n + 1) % deep}): pass" for n in range(deep))
        return f"{text}\n{rng.choice([bases, chr(10).join(body)])}\n"
    at = rng.choice(forwards)
    return text[:at] + "".join(f"        {line}\n" for line in body) + text[at:]
