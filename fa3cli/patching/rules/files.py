"""Reading rules: those that come with fa3cli, and those of a user's folder."""

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

    InvalidInputError if the folder has none, or a file in it is not a rule.
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
    """Read one rule file; InvalidInputError says what is wrong with it."""
    try:
        data = read_bytes(path)
        table = Table(str(path), "", parse_toml(data))
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}", hint=HINT) from None
    except ValueError as error:
        raise InvalidInputError(f"{path}: not TOML: {error}", hint=HINT) from None
    table.only("match", "contains", "refuse", "unless", "idle", "attach", "site", "absent", "example")
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
        examples=tuple(_example(inner) for inner in table.tables("example")),
    )
    said = [key for key in ("refuse", "idle") if getattr(rule, key)]
    said += ["attach/site"] if rule.attach or rule.site else []
    if len(said) != 1:
        found = " and ".join(said) or "none of them"
        raise table.wrong(
            "",
            f"must say one thing of refuse, idle, attach or site (attach and site go together); found {found}",
        )
    if rule.unless and not rule.refuse:
        raise table.wrong("unless", "takes back a refusal, but there is no `refuse`")
    if rule.absent and rule.site is None:
        raise table.wrong("absent", "says when a `site` holds, but there is none")
    if not rule.examples:
        raise table.wrong("example", "is missing: a rule needs at least one [[example]]")
    return rule


def _attach(table: Table) -> dict[str, str]:
    if "attach" not in table.values:
        return {}
    inner, keys = table.inner("attach"), ("num_attention_heads", "hidden_size", "num_key_value_heads")
    inner.only(*keys)
    return {key: inner.code(key, inner.text(key, required=True), expression) for key in keys}


def _site(table: Table) -> Place | None:
    if "site" not in table.values:
        return None
    inner = table.inner("site")
    inner.only("method", "after", "q", "k", "v", "core")
    if "core" in inner.values:
        if others := sorted(inner.values.keys() - {"core"}):
            raise inner.wrong("core", f"lets fa3 find the place, so there can be no {', '.join(others)}")
        return Place("", None, (), inner.code("core", inner.text("core", required=True), expression))
    after = inner.text("after")
    states = tuple(inner.code(key, inner.text(key, required=True), expression) for key in "qkv")
    if len(set(states)) < len(states):
        raise inner.wrong("q, k, v", f"must be three different states, found {', '.join(states)}")
    if after is not None and not all(state.isidentifier() for state in states):
        raise inner.wrong(
            "after", "goes with three names; expressions are wrapped where they stand, without `after`"
        )
    after = after and inner.code("after", after, statement)
    return Place(inner.text("method") or "forward", after, states)


def _example(table: Table) -> Example:
    table.only("before", "after", "refused", "config")
    after, refused = table.text("after"), table.text("refused")
    if (after is None) == (refused is None):
        raise table.wrong("after", "or `refused`: an example has exactly one of the two")
    return Example(table.text("before", required=True), after, refused, table.table("config"))
