"""Reads the rules that come with fa3cli, and those of a user's folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.files.documents import parse_toml
from fa3cli.files.reading import read_bytes
from fa3cli.patching.receipt import sha256
from fa3cli.patching.rules.rule import Example, Place, Rule, Rules
from fa3cli.patching.rules.tables import HINT, Table, expression, statement

__all__ = ["load_rules", "read_rule", "shipped_rules"]

_PACKAGE = Path(__file__).parents[2]


def load_rules(folder: str | Path | None = None) -> Rules:
    """The shipped rules and, before them, those of a user's folder (every *.toml in it).

    Raises InvalidInputError if the folder has no rule, or a file in it is not a valid one.
    """
    if folder is None:
        return Rules(shipped_rules())
    files = sorted(Path(folder).glob("*.toml"))
    if not files:
        what = "holds no rule (*.toml)" if Path(folder).is_dir() else "is not a folder"
        raise InvalidInputError(f"--rules {folder} {what}", hint=HINT)
    return Rules(shipped_rules(), tuple(map(read_rule, files)))


@lru_cache(maxsize=1)
def shipped_rules() -> tuple[Rule, ...]:
    """The rules that come with fa3cli: inside the package, or beside it in a source checkout."""
    inside = _PACKAGE / "patch_rules"
    folder = inside if inside.is_dir() else _PACKAGE.with_name("patch_rules")
    return tuple(map(read_rule, sorted(folder.glob("*.toml"))))


def read_rule(path: Path) -> Rule:
    """Read one rule file; raises InvalidInputError if it is not valid."""
    try:
        data = read_bytes(path)
        table = Table(str(path), "", parse_toml(data))
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}", hint=HINT) from None
    except ValueError as error:
        raise InvalidInputError(f"{path}: not TOML: {error}", hint=HINT) from None
    table.allow_keys("match", "contains", "refuse", "unless", "idle", "attach", "site", "absent", "example")
    rule = Rule(
        file=str(path),
        digest=sha256(data),
        match=table.texts("match", required=True),
        contains=tuple(table.code("contains", text, statement) for text in table.texts("contains")),
        refuse=table.text("refuse"),
        unless=table.table("unless"),
        idle=table.text("idle"),
        attach=_attach(table),
        site=_site(table),
        absent=table.texts("absent"),
        examples=tuple(_example(subtable) for subtable in table.tables("example")),
    )
    said = [key for key in ("refuse", "idle") if getattr(rule, key)]
    said += ["attach/site"] if rule.attach or rule.site else []
    if len(said) != 1:
        found = " and ".join(said) or "none of them"
        raise table.problem(
            "",
            f"must have exactly one of refuse, idle, and attach or site (or both); found {found}",
        )
    if rule.unless and not rule.refuse:
        raise table.problem("unless", "is an exception to a refusal, but there is no `refuse`")
    if rule.absent and rule.site is None:
        raise table.problem("absent", "is a condition for a `site`, but there is no `site`")
    if not rule.examples:
        raise table.problem("example", "is missing: a rule needs at least one [[example]]")
    return rule


def _attach(table: Table) -> dict[str, str]:
    if "attach" not in table.values:
        return {}
    subtable, keys = table.subtable("attach"), ("num_attention_heads", "hidden_size", "num_key_value_heads")
    subtable.allow_keys(*keys)
    return {key: subtable.code(key, subtable.text(key, required=True), expression) for key in keys}


def _site(table: Table) -> Place | None:
    if "site" not in table.values:
        return None
    subtable = table.subtable("site")
    subtable.allow_keys("method", "after", "q", "k", "v", "core")
    if "core" in subtable.values:
        if others := sorted(subtable.values.keys() - {"core"}):
            raise subtable.problem(
                "core", f"makes fa3 find the place, so these keys are not allowed: {', '.join(others)}"
            )
        return Place("", None, (), subtable.code("core", subtable.text("core", required=True), expression))
    after = subtable.text("after")
    states = tuple(subtable.code(key, subtable.text(key, required=True), expression) for key in "qkv")
    if len(set(states)) < len(states):
        raise subtable.problem("q, k, v", f"must be three different states, found {', '.join(states)}")
    if after is not None and not all(state.isidentifier() for state in states):
        raise subtable.problem(
            "after", "needs three variable names as q, k, v; calls around expressions need no `after`"
        )
    after = after and subtable.code("after", after, statement)
    return Place(subtable.text("method") or "forward", after, states)


def _example(table: Table) -> Example:
    table.allow_keys("before", "after", "refused", "config")
    after, refused = table.text("after"), table.text("refused")
    if (after is None) == (refused is None):
        raise table.problem("after", "or `refused`: an example needs exactly one of them")
    return Example(table.text("before", required=True), after, refused, table.table("config"))
