"""Reads values from the tables of a rule file; errors name the file, the key, the value found and the expected kind."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from fa3cli.errors import InvalidInputError
from fa3cli.files.python_code import Unbounded, bounded_tree

__all__ = ["HINT", "Table", "expression", "statement"]

HINT = "docs/patch-rules.md says what a rule may hold"


def statement(text: str) -> str:
    """One statement as `ast.unparse` writes it; raises SyntaxError or ValueError if it is not one."""
    (found,) = bounded_tree(text).body
    return ast.unparse(found)


def expression(text: str) -> str:
    """An expression as `ast.unparse` writes it; raises SyntaxError or ValueError if it is not one."""
    return ast.unparse(bounded_tree(text, mode="eval"))


class Table:
    """A table of a rule file, with the file and its own name for error messages."""

    def __init__(self, file: str, name: str, values: Mapping[str, Any]) -> None:
        self.file, self.name, self.values = file, name, values

    def problem(self, key: str, what: str) -> InvalidInputError:
        """Return an error about one key (empty: about the whole rule)."""
        place = ".".join(filter(None, [self.name, key]))
        return InvalidInputError(f"{self.file}: {place + ' ' if place else ''}{what}", hint=HINT)

    def allow_keys(self, *keys: str) -> None:
        """Refuse a key that is not one of these; the error names the most similar one."""
        for key in self.values:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
                raise self.problem(key, f"is not a key of a rule; {meant}")

    def text(self, key: str, required: bool = False) -> str | None:
        """A text that is not empty; None if the key is missing and not required."""
        return self._get(key, None, required, "a text", _is_text)

    def texts(self, key: str, required: bool = False) -> tuple[str, ...]:
        """A list of texts; a single text is a list of one."""
        value = self.values.get(key)
        if isinstance(value, str):
            return (self.text(key),)
        return tuple(self._get(key, (), required, "a text or a list of texts", _is_texts))

    def table(self, key: str) -> Mapping[str, Any]:
        """A table, empty if it is missing."""
        return self._get(key, {}, False, "a table", lambda value: isinstance(value, dict))

    def subtable(self, key: str) -> Table:
        """A table of this table."""
        return Table(self.file, key, self.table(key))

    def tables(self, key: str) -> list[Table]:
        """An array of tables."""
        found = self._get(key, [], False, f"tables, each headed [[{key}]]", _is_tables)
        return [Table(self.file, f"{key} {number}", values) for number, values in enumerate(found, 1)]

    def code(self, key: str, text: str, parse: Callable[[str], str]) -> str:
        """A piece of Python as `ast.unparse` writes it."""
        try:
            return parse(text.strip())
        except Unbounded as error:
            raise self.problem(key, f"is code that fa3 cannot analyse: {error}") from None
        except (SyntaxError, ValueError):
            kind = "one whole statement" if parse is statement else "an expression"
            raise self.problem(key, f"must be {kind} of Python, found {text!r}") from None

    def _get(self, key: str, default: Any, required: bool, kind: str, good: Callable[[Any], Any]) -> Any:
        if key not in self.values and not required:
            return default
        if key not in self.values:
            raise self.problem(key, f"is missing; expected {kind}")
        if not good(self.values[key]):
            raise self.problem(key, f"must be {kind}, found {self.values[key]!r}")
        return self.values[key]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)
