"""Changes Python source: lines, tokens, and structures that strain code which walks a syntax tree."""

from __future__ import annotations

import random
import re

__all__ = ["HOSTILE", "mutated_source"]

HOSTILE = "import os\n\nopen(os.environ['FA3_CANARY'] + '/ran', 'w').close()\n"
"""Code that writes a file into the canary folder if it is run."""

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
    """Return a changed modeling file that would write into the canary folder if it were run."""
    if rng.random() < 0.2:
        text = _structured(text, rng)
    for _ in range(rng.choice([1, 1, 2, 5])):
        text = _line_changed(text, rng) if rng.random() < 0.5 else _token_changed(text, rng)
    return HOSTILE + text


def _line_changed(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    index, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(["remove", "double", "swap", "dedent", "indent", "known", "join"])
    if kind == "remove":
        del lines[index : index + rng.randint(1, 4)]
    elif kind == "double":
        lines.insert(other, lines[index])
    elif kind == "swap":
        lines[index], lines[other] = lines[other], lines[index]
    elif kind == "dedent":
        lines[index] = lines[index].lstrip()
    elif kind == "indent":
        lines[index] = f"    {lines[index]}"
    elif kind == "join":
        lines[index : index + 2] = ["".join(lines[index : index + 2])]
    else:
        indent = " " * (len(lines[index]) - len(lines[index].lstrip()))
        lines.insert(index, "\n".join(indent + line for line in rng.choice(_LINES).split("\n")))
    return "\n".join(lines)


def _token_changed(text: str, rng: random.Random) -> str:
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return rng.choice(_LINES)
    found = rng.choice(tokens)
    word = rng.choice(_WORDS) if rng.random() < 0.4 else rng.choice(tokens).group()
    return f"{text[: found.start()]}{word}{text[found.end() :]}"


def _structured(text: str, rng: random.Random) -> str:
    """Insert something deep, long or circular, at the end of the file or into a forward."""
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
    position = rng.choice(forwards)
    return text[:position] + "".join(f"        {line}\n" for line in body) + text[position:]
