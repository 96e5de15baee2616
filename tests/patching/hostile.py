"""Makes modeling files that break Python parsers: too deep, too large, circular, or not valid Python."""

from __future__ import annotations

from tests.patching import samples

__all__ = ["BROKEN", "HOSTILE", "modeling"]


def modeling(extra: str, body: str = samples.INTERFACE) -> str:
    """A modeling file that fa3 can patch, with the given text at its end."""
    return samples.marked(body)[0] + "\n\n" + extra + "\n"


def nested(head: str, inner: str, times: int, tail: str = "") -> str:
    """Nested statements."""
    lines = [" " * level + head for level in range(times)]
    return "\n".join([*lines, " " * times + inner]) + tail


def in_forward(line: str) -> str:
    """A modeling file whose attention's forward has an additional line."""
    return modeling("", samples.INTERFACE.replace("# HERE", line + "\n# HERE", 1))


# Refused with file and line.
HOSTILE = {
    "elifs": modeling("if a:\n    b\n" + "elif a:\n    b\n" * 1000),
    "terms": modeling("x = a" + " + a" * 5000),
    "terms in forward": in_forward("a = a" + " + a" * 2000),
    "parentheses": modeling("x = " + "(" * 5000 + "1" + ")" * 5000),
    "attributes": modeling("x = a" + ".b" * 4000),
    "calls": modeling("x = a" + "()" * 4000),
    "subscripts": modeling("x = a" + "[0]" * 3000),
    "minuses": modeling("x = " + "-" * 3000 + "1"),
    "nots": modeling("x = " + "not " * 2000 + "1"),
    "lambdas": modeling("x = " + "lambda: " * 1000 + "1"),
    "conditions": modeling("x = " + "1 if 2 else " * 800 + "3"),
    "lists": modeling("x = " + "[" * 150 + "]" * 150),
    "dicts": modeling("x = " + "{1: " * 150 + "1" + "}" * 150),
    "functions": modeling(nested("def f():", "pass", 99)),
    "indented": modeling(nested("if a:", "pass", 150)),
    "blocks": modeling(nested("for a in b:", "pass", 30)),
    "f-strings": modeling("x = " + "f'{a:{b}}' + " * 200 + "''"),
    "circle of two": modeling("class A(B):\n    pass\n\n\nclass B(A):\n    pass"),
    "circle of three": modeling("class A(C): pass\nclass B(A): pass\nclass C(B): pass"),
    "line of bases": modeling("class A0: pass\n" + "".join(f"class A{n}(A{n - 1}): pass\n" for n in range(1, 3000))),
    "global": modeling("def f():\n    a = 1\n    global a"),
    "nonlocal": modeling("nonlocal a"),
    "return": modeling("return 1"),
    "await": modeling("def f():\n    await a"),
    "arguments": modeling("def f(a, a):\n    pass"),
    "keyword": modeling("f(a=1, a=2)"),
    "number": modeling("x = " + "1" * 9000),
    "hexadecimal": modeling("x = 0x" + "f" * 9000),
    "long line": modeling("x = '" + "a" * 20_000 + "'"),
    "statements": modeling("a = 1\n" * 100_000),
    "large function": modeling("def f():\n" + "    a = b.c(d)\n" * 10_000),
}  # fmt: skip

# Not Python at all.
BROKEN = {
    "null byte": modeling("x = 1\0"),
    "unclosed": modeling("x = ("),
    "dedent": modeling("def f():\n        a\n    b"),
}
