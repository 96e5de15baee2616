import os

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.rules.files import load_rules, read_rule, shipped_rules
from tests.patching.rule_samples import ATTACH, EXAMPLE, IDLE, REFUSE, SITE, rule


def test_every_kind_of_rule_is_read(tmp_path) -> None:
    assert rule(tmp_path, REFUSE).refuse == "too strange"
    assert rule(tmp_path, IDLE).match == ("Attention", "Other")
    assert rule(tmp_path, ATTACH).attach["hidden_size"] == "self.width * 2"
    site = rule(tmp_path, SITE).site
    assert (site.method, site.after, site.states) == (
        "forward", "shape = (*x.shape[:-1], -1, self.head_dim)", ("a", "b", "c"),
    )  # fmt: skip
    site = rule(tmp_path, 'match = "A"\n[site]\nmethod = "go"\nq = "f(a,b)"\nk = "f(c)"\nv = "self.d"\n').site
    assert (site.method, site.after, site.states) == ("go", None, ("f(a, b)", "f(c)", "self.d"))
    found = rule(tmp_path, 'match = "A"\nabsent = "image_dim"\n[site]\ncore = "key"\n')
    assert (found.site.core, found.absent) == ("key", ("image_dim",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('match = "A', "not TOML: .*line 1"),
        ('mach = "A"\nrefuse = "r"', "mach is not a key of a rule; did you mean match?"),
        ('match = "A"\nrefuse = "r"\nzzz = 1', "zzz is not a key of a rule; known are match, contains"),
        ('refuse = "r"', "match is missing; expected a text or a list of texts"),
        ('match = 3\nrefuse = "r"', "match must be a text or a list of texts, found 3"),
        ('match = []\nrefuse = "r"', r"match must be a text or a list of texts, found \[\]"),
        ('match = ""\nrefuse = "r"', "match must be a text, found ''"),
        ('match = "A"\nrefuse = 1', "refuse must be a text, found 1"),
        ('match = "A"', "must have exactly one of refuse, idle, and attach or site .* found none"),
        ('match = "A"\nrefuse = "r"\nidle = "i"', "must have exactly one .* found refuse and idle"),
        (IDLE + "unless = {a = 1}", "unless is an exception to a refusal"),
        (REFUSE + "unless = 1", "unless must be a table, found 1"),
        (IDLE + "[attach]\n" + ATTACH.partition("[attach]")[2], "must have exactly one .* found idle and attach/site"),
        (REFUSE + 'contains = ["x = 1; y = 2"]', "contains must be one whole statement of Python, found 'x = 1; y"),
        (REFUSE + 'contains = ["if a:"]', "contains must be one whole statement"),
        ('match = "A"\n[attach]\nhidden_size = "h"', "attach.num_attention_heads is missing; expected a text"),
        (ATTACH.replace("'self.width * 2'", '"self.width *"'), "attach.hidden_size must be an expression of Python"),
        (ATTACH + 'heads = "1"', "attach.heads is not a key of a rule; known are num_attention_heads"),
        ('match = "A"\nattach = 1', "attach must be a table, found 1"),
        (SITE.replace('v = "c"', 'v = "b"'), "site.q, k, v must be three different states, found a, b, b"),
        (SITE.replace('v = "c"', 'v = "c.T"'), "site.after needs three variable names"),
        ('match = "A"\n[site]\nafter = "x = 1"\nq = "a"\nk = "b"', "site.v is missing; expected a text"),
        (SITE + 'core = "key"', "site.core makes fa3 find the place, so these keys are not allowed: after, k, q, v"),
        (IDLE + 'absent = "a"', "absent is a condition for a `site`, but there is no `site`"),
        (SITE + 'befor = "x"', "site.befor is not a key of a rule; known are"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_and_key(tmp_path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"mine\.toml: {message}") as caught:
        rule(tmp_path, text + "\n")
    assert "docs/patch-rules.md" in caught.value.hint


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("", r"example is missing: a rule needs at least one \[\[example\]\]"),
        ("[example]\nbefore = 'x'", r"example must be tables, each headed \[\[example\]\]"),
        ("[[example]]\nbefore = 'x'", "example 1.after or `refused`: an example needs exactly one"),
        (EXAMPLE + "after = 'y'", "example 1.after or `refused`"),
        (EXAMPLE + "[[example]]\nafter = 'x'", "example 2.before is missing"),
        (EXAMPLE + "reason = 'x'", "example 1.reason is not a key of a rule; known are before, after"),
    ],
)
def test_a_mistake_in_an_example_is_named_too(tmp_path, example: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(REFUSE + example)
    with pytest.raises(InvalidInputError, match=rf"mine\.toml: {message}"):
        read_rule(tmp_path / "mine.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.toml: No such file"):
        read_rule(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'match = "\xe9"')
    with pytest.raises(InvalidInputError, match=r"latin\.toml: not TOML"):
        read_rule(tmp_path / "latin.toml")


def test_a_users_folder_comes_before_the_shipped_rules(tmp_path) -> None:
    rule(tmp_path, REFUSE, "b.toml")
    rule(tmp_path, IDLE, "a.toml")
    (tmp_path / "notes.md").write_text("not a rule")
    found = load_rules(tmp_path)
    assert [rule.file for rule in found.own] == [str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]
    assert found.shipped == shipped_rules() == load_rules().shipped


def test_a_folder_without_rules_is_an_error(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="holds no rule"):
        load_rules(tmp_path)
    with pytest.raises(InvalidInputError, match="is not a folder"):
        load_rules(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 2000 + "]" * 2000,
        "match = " + "9" * 5000,
        "\ud800",
        'match = "A\0"',
        IDLE + "absent = [[[1]]]",
        'match = {a = "b"}\nrefuse = "r"',
        REFUSE + "unless = []",
        REFUSE + "contains = [7]",
        REFUSE + "example = 7",
        SITE.replace('v = "c"', "v = 1e400"),
        SITE.replace('v = "c"', "v = '" + "-" * 3000 + "1'"),
        SITE.replace('v = "c"', "v = 'a" + "+a" * 3000 + "'"),
        SITE.replace('v = "c"', "v = '0x" + "f" * 9000 + "'"),
        REFUSE + "contains = '" + "(" * 300 + ")" * 300 + "'",
        REFUSE + "contains = '''if a: b\n" + "elif a: b\n" * 1000 + "'''",
    ],
)
def test_a_file_that_breaks_parsers_is_invalid(tmp_path, text: str) -> None:
    (tmp_path / "mine.toml").write_bytes((text + "\n" + EXAMPLE).encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidInputError, match=r"mine\.toml"):
        checked_rules(tmp_path)


@pytest.mark.parametrize(
    "before", ["x = (", "x = " + "-" * 3000 + "1", "if a: b\n" + "elif a: b\n" * 1000, "class A(A2): pass"]
)
@pytest.mark.parametrize("said", ['refused = "nested"', 'refused = "x"', 'after = "x"'])
def test_an_example_that_breaks_parsers_is_invalid(tmp_path, before: str, said: str) -> None:
    text = f'{REFUSE}\n[[example]]\nbefore = """\n{before}\n"""\n{said}\n'
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=r"mine\.toml"):
        checked_rules(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_invalid(tmp_path, make) -> None:
    make(tmp_path / "mine.toml")
    with pytest.raises(InvalidInputError, match=r"mine\.toml"):
        load_rules(tmp_path)
    for folder in (tmp_path / "mine.toml" / "x", tmp_path / "missing", "/dev/zero"):
        with pytest.raises(InvalidInputError, match="--rules"):
            load_rules(folder)
