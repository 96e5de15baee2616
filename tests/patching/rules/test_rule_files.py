import os

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.rules.rule_files import load_rules, read_rule, shipped_rules
from tests.patching.rule_samples import ATTACH, EXAMPLE, IDLE, REFUSE, SITE, rule


def test_code_is_normalised(tmp_path) -> None:
    site = rule(tmp_path, 'match = "A"\n[site]\nafter = "x = f( 1,\\n \'b\' )"\nq = "a"\nk = "b"\nv = "c"\n').site
    assert site.after == "x = f(1, 'b')"


def test_every_kind_of_rule_is_read(tmp_path) -> None:
    assert rule(tmp_path, REFUSE).refuse == "too strange"
    assert rule(tmp_path, IDLE).match == ("Attention", "Other")
    assert rule(tmp_path, ATTACH).attach.hidden_size == "self.width * 2"
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
        ('mach = "A"\nrefuse = "r"', "Object missing required field `match`"),
        ('match = "A"\nidel = "r"', "unknown key 'idel', expected idle"),
        ('match = "A"\nrefuse = "r"\nfile = "x"', "unknown key 'file'"),
        ('match = "A"\nrefuse = "r"\nzzz = 1', "unknown key 'zzz', expected absent or attach or contains"),
        ('refuse = "r"', "Object missing required field `match`"),
        ('match = 3\nrefuse = "r"', r"Expected `array`, got `int` - at `\$.match`"),
        ('match = []\nrefuse = "r"', "match must name a class, found none"),
        ('match = ""\nrefuse = "r"', "match must name a class, found none"),
        ('match = "A"\nrefuse = 1', r"Expected `str . null`, got `int` - at `\$.refuse`"),
        ('match = "A"', "must have exactly one of refuse, idle, and attach or site .* found none"),
        ('match = "A"\nrefuse = "r"\nidle = "i"', "must have exactly one .* found refuse and idle"),
        (IDLE + "unless = {a = 1}", "unless is an exception to a refusal"),
        (REFUSE + "unless = 1", r"Expected `object`, got `int` - at `\$.unless`"),
        (IDLE + "[attach]\n" + ATTACH.partition("[attach]")[2], "must have exactly one .* found idle and attach/site"),
        (REFUSE + 'contains = ["x = 1; y = 2"]', "contains must be one whole statement of Python, found 'x = 1; y"),
        (REFUSE + 'contains = ["if a:"]', "contains must be one whole statement"),
        ('match = "A"\n[attach]\nhidden_size = "h"', r"Object missing required field `num_attention_heads` - at `\$.attach`"),
        (ATTACH.replace("'self.width * 2'", '"self.width *"'), "attach.hidden_size must be an expression of Python"),
        (ATTACH + 'heads = "1"', "unknown key 'heads', expected hidden_size or num_att"),
        ('match = "A"\nattach = 1', r"Expected `object . null`, got `int` - at `\$.attach`"),
        (SITE.replace('v = "c"', 'v = "b"'), "site.q, k, v must be three different states, found a, b, b"),
        (SITE.replace('v = "c"', 'v = "c.T"'), "site.after needs three variable names"),
        ('match = "A"\n[site]\nafter = "x = 1"\nq = "a"\nk = "b"', "site.q, k, v must be three different states, found a, b, None"),
        (SITE + 'core = "key"', "site.core makes fa3 find the place: no other key of `site` is allowed"),
        (IDLE + 'absent = "a"', "absent is a condition for a `site`, but there is no `site`"),
        (SITE + 'befor = "x"', "unknown key 'befor', expected"),
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
        ("[example]\nbefore = 'x'", r"Expected `array`, got `object` - at `\$.example`"),
        ("[[example]]\nbefore = 'x'", "an example needs exactly one of `after` and `refused`"),
        (EXAMPLE + "after = 'y'", "an example needs exactly one of `after` and `refused`"),
        (
            EXAMPLE + "[[example]]\nafter = 'x'",
            r"Object missing required field `before` - at `\$.example\[1\]`",
        ),
        (EXAMPLE + "reason = 'x'", "unknown key 'reason', expected"),
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


def test_user_rules_are_loaded_beside_the_shipped_rules(tmp_path) -> None:
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
def test_a_special_file_is_invalid(tmp_path, make) -> None:
    make(tmp_path / "mine.toml")
    with pytest.raises(InvalidInputError, match=r"mine\.toml"):
        load_rules(tmp_path)
    for folder in (tmp_path / "mine.toml" / "x", tmp_path / "missing", "/dev/zero"):
        with pytest.raises(InvalidInputError, match="--rules"):
            load_rules(folder)
