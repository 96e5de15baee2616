"""Reads the rules that come with fa3cli, and those of a user's folder."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from fa3cli.errors import InvalidInputError
from fa3cli.files.documents import parse_toml, typed
from fa3cli.files.python_code import Unbounded, bounded_tree
from fa3cli.files.reading import read_bytes
from fa3cli.patching.folders.receipt import sha256
from fa3cli.patching.rules.rule import Place, Rule, Rules, Sizes

__all__ = ["load_rules", "read_rule", "shipped_rules"]

_PACKAGE = Path(__file__).parents[2]
_HINT = "docs/patch-rules.md says what a rule may hold"
_LISTS = ("match", "contains", "absent")
T = TypeVar("T", Place, Sizes)


def load_rules(folder: str | Path | None = None) -> Rules:
    """Return the shipped rules and, before them, those of a user's folder (every *.toml in it).

    Raises InvalidInputError if the folder has no rule, or a file in it is not a valid one.
    """
    if folder is None:
        return Rules(shipped_rules())
    files = sorted(Path(folder).glob("*.toml"))
    if not files:
        problem = "holds no rule (*.toml)" if Path(folder).is_dir() else "is not a folder"
        raise InvalidInputError(f"--rules {folder} {problem}", hint=_HINT)
    return Rules(shipped_rules(), tuple(map(read_rule, files)))


@lru_cache(maxsize=1)
def shipped_rules() -> tuple[Rule, ...]:
    """Return the rules that come with fa3cli: inside the package, or beside it in a source checkout."""
    inside = _PACKAGE / "patch_rules"
    folder = inside if inside.is_dir() else _PACKAGE.with_name("patch_rules")
    return tuple(map(read_rule, sorted(folder.glob("*.toml"))))


def read_rule(path: Path) -> Rule:
    """Read one rule file; raises InvalidInputError if it is not valid."""
    try:
        data = read_bytes(path)
        return _checked(typed(_table(data) | {"file": str(path), "digest": sha256(data)}, Rule, unknown=False))
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}", hint=_HINT) from None
    except ValueError as error:
        raise InvalidInputError(f"{path}: {error}", hint=_HINT) from None


def _table(data: bytes) -> dict[str, Any]:
    """Return the table of a rule file; a single text instead of a list of texts becomes a list."""
    try:
        table = parse_toml(data)
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from None
    if own := sorted({"file", "digest"} & table.keys()):
        raise ValueError(f"unknown key {own[0]!r}")
    return table | {key: [table[key]] for key in _LISTS if isinstance(table.get(key), str)}


def _checked(rule: Rule) -> Rule:
    """Return a rule with its code as `ast.unparse` writes it; raises ValueError for keys that contradict each other."""
    kinds = [key for key in ("refuse", "idle") if getattr(rule, key)]
    kinds += ["attach/site"] if rule.attach or rule.site else []
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none of them"
        raise ValueError(f"must have exactly one of refuse, idle, and attach or site (or both); found {found}")
    if not rule.match or not all(rule.match):
        raise ValueError("match must name a class, found none")
    if rule.unless and not rule.refuse:
        raise ValueError("unless is an exception to a refusal, but there is no `refuse`")
    if rule.absent and rule.site is None:
        raise ValueError("absent is a condition for a `site`, but there is no `site`")
    if not rule.example:
        raise ValueError("example is missing: a rule needs at least one [[example]]")
    if any((example.after is None) == (example.refused is None) for example in rule.example):
        raise ValueError("an example needs exactly one of `after` and `refused`")
    return replace(
        rule,
        contains=tuple(_code("contains", text, "exec") for text in rule.contains),
        attach=rule.attach and _with_code("attach", rule.attach),
        site=rule.site and _checked_site(rule.site),
    )


def _checked_site(site: Place) -> Place:
    if site.core is not None:
        if site != Place(core=site.core):
            raise ValueError("site.core makes fa3 find the place: no other key of `site` is allowed")
    elif len(set(site.states)) < 3:
        raise ValueError(f"site.q, k, v must be three different states, found {site.q}, {site.k}, {site.v}")
    elif site.after is not None and not all(map(str.isidentifier, site.states)):
        raise ValueError("site.after needs three variable names; calls around expressions need no `after`")
    return _with_code("site", site)


def _with_code(key: str, table: T) -> T:
    """Return a table of code: `after` is one statement, the others are expressions."""
    code = {}
    for name, text in vars(table).items():
        if text is not None:
            code[name] = _code(f"{key}.{name}", text, "exec" if name == "after" else "eval")
    return replace(table, **code)


def _code(key: str, text: str, mode: Literal["exec", "eval"]) -> str:
    """Return a piece of Python as `ast.unparse` writes it: an expression ("eval") or one statement ("exec")."""
    try:
        tree = bounded_tree(text.strip(), mode)
        [node] = tree.body if isinstance(tree, ast.Module) else [tree.body]
        return ast.unparse(node)
    except Unbounded as error:
        raise ValueError(f"{key} is code that fa3 cannot analyse: {error}") from None
    except (SyntaxError, ValueError):
        kind = "an expression" if mode == "eval" else "one whole statement"
        raise ValueError(f"{key} must be {kind} of Python, found {text!r}") from None
