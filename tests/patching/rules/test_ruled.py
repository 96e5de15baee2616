import textwrap

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.rules.rule import Rules
from fa3cli.patching.sources import list_source, patch_source
from tests.patching.rule_samples import ATTACH, IDLE, REFUSE, SITE, rules
from tests.patching.samples import INTERFACE, marked

TEXT = marked(INTERFACE)[0]
NONE = Rules()
AFTER = "shape = (*x.shape[:-1],\n    -1, self.head_dim)"
OTHER = "\n\nclass Other(nn.Module):\n    def forward(self, x):\n        return x\n"
UNKNOWN = TEXT.replace("attend(self, a, b, c", "mystery(self, a, b, c").replace("ALL_ATTENTION_FUNCTIONS", "X")


def classes(text: str, used: Rules, **config):
    return {attention.name: attention for attention in list_source(text, rules=used, config=config)}


def test_a_refusal_is_listed_and_raised_with_line_reason_and_rule(tmp_path) -> None:
    used = rules(tmp_path, REFUSE)
    found = classes(TEXT, used)["Attention"]
    assert (found.states, found.problem, found.rule, found.idle) == (
        None, "modeling.py:6: too strange", "mine.toml", False,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"modeling\.py:6: too strange \[Attention\]"):
        patch_source(TEXT, rules=used)


def test_unless_cancels_a_refusal_and_the_class_is_not_patched(tmp_path) -> None:
    used = rules(tmp_path, REFUSE.replace('"Attention"', '"Other"') + "unless = { kind = 'full' }\n")
    with pytest.raises(UnsupportedError, match="too strange"):
        patch_source(TEXT + OTHER, rules=used, config={"kind": "sparse"})
    patched = patch_source(TEXT + OTHER, rules=used, config={"kind": "full"})
    assert [attention.name for attention in patched.attention] == ["Attention"]
    assert classes(TEXT + OTHER, used, kind="full")["Other"].problem == "never built: kind is full"


def test_an_idle_class_is_listed_and_never_patched(tmp_path) -> None:
    used = rules(tmp_path, IDLE.replace('"Attention", ', ""))
    text = OTHER.replace("return x", "return F.scaled_dot_product_attention(x, x, x)") + "\n\n" + TEXT
    with pytest.raises(UnsupportedError):
        patch_source(text, rules=NONE)
    patched = patch_source(text, rules=used)
    assert [attention.name for attention in patched.attention] == ["Attention"]
    assert patched.warnings == ("Other is not patched: not about positions",)
    assert list(patched.rules) == ["mine.toml"]
    assert list(classes(text, used)) == ["Other", "Attention"]
    with pytest.raises(UnsupportedError, match=r"modeling\.py:3: Other: not about positions"):
        patch_source(text, rules=used, attention=["Other"])


def test_a_rule_for_other_classes_changes_nothing(tmp_path) -> None:
    used = rules(tmp_path, IDLE.replace('"Attention", ', ""))
    assert patch_source(TEXT, rules=used) == patch_source(TEXT, rules=NONE)
    assert classes(TEXT, used) == classes(TEXT, NONE)


def test_an_attachment_creates_the_config_and_imports_its_class(tmp_path) -> None:
    text = TEXT.replace("self, config, layer_idx", "self, layer_idx").replace("self.config = config", "self.width = 1")
    with pytest.raises(UnsupportedError, match="no config") as caught:
        patch_source(text, rules=NONE)
    assert "--rules" in caught.value.hint
    patched = patch_source(text, rules=rules(tmp_path, ATTACH))
    assert patched.text.startswith(
        "from types import SimpleNamespace\nfrom fa3cli.fa_quantizer import FAQuantizer\nfrom fa3cli import logger\n\n"
    )
    assert (
        "        self.fa_quantizer = FAQuantizer(SimpleNamespace(num_attention_heads=layer_idx, "
        "hidden_size=self.width * 2, num_key_value_heads=layer_idx // 2), logger)\n"
    ) in patched.text
    assert patched.attention[0].rule == "mine.toml"


def test_an_attachment_with_unknown_names_is_refused(tmp_path) -> None:
    used = rules(tmp_path, ATTACH.replace("self.width * 2", "width"))
    with pytest.raises(
        UnsupportedError, match=r"modeling\.py:7: .*mine\.toml: attach\.hidden_size needs width"
    ) as caught:
        patch_source(TEXT, rules=used)
    assert caught.value.hint == "its names: config, layer_idx, self"


def test_a_site_determines_where_the_calls_are_inserted(tmp_path) -> None:
    cache = "if past is not None:\n    b, c = past.update(b, c, self.layer_idx)"
    patched = patch_source(UNKNOWN, rules=rules(tmp_path, SITE.replace(AFTER, cache)))
    usual = patch_source(TEXT, rules=NONE).text
    assert patched.text == usual.replace("ALL_ATTENTION_FUNCTIONS", "X").replace("attend(", "mystery(")
    (found,) = patched.attention
    assert (found.states, found.place, found.rule) == (("a", "b", "c"), 18, "mine.toml")


def test_a_site_may_be_three_expressions(tmp_path) -> None:
    text = UNKNOWN.replace("mystery(self, a, b, c,", "mystery(self, a.half(), b.half(), c.half(),")
    expressions = 'match = "Attention"\n[site]\nq = "a.half()"\nk = "b.half( )"\nv = "c.half()"\n'
    patched = patch_source(text, rules=rules(tmp_path, expressions))
    assert 'mystery(self, self.fa_quantizer.quant(a.half(), qkv="q"), self.fa_quantizer.quant(b.half()' in patched.text


def test_a_site_is_a_use_of_an_expression_and_not_an_assignment(tmp_path) -> None:
    text = UNKNOWN.replace("mystery(self, a, b, c,", "mystery(self, self.a, b.half(), c.half(),")
    expressions = 'match = "Attention"\n[site]\nq = "self.a"\nk = "b.half()"\nv = "c.half()"\n'
    text = text.replace("        out, weights", "        self.a = a\n        out, weights")
    patched = patch_source(text, rules=rules(tmp_path, expressions))
    assert 'mystery(self, self.fa_quantizer.quant(self.a, qkv="q")' in patched.text
    assert "        self.a = a\n" in patched.text


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("shape = (*x", "shapes = (*x", "forward must contain `shapes = .*` once, found 0"),
        (AFTER, "b, c = past.update(b, c, self.layer_idx)", "inside another"),
        ("[site]", '[site]\nmethod = "attend"', "Attention has no method attend of its own"),
        (
            SITE.partition("[site]")[2],
            '\nq = "self.head_dim"\nk = "x.k"\nv = "x.v"\n',
            r"once, found \d",
        ),
    ],
)
def test_a_site_not_found_exactly_once_is_listed_and_refused(tmp_path, before: str, after: str, reason: str) -> None:
    assert before in SITE
    used = rules(tmp_path, SITE.replace(before, after))
    assert classes(TEXT, used)["Attention"].states is None
    with pytest.raises(UnsupportedError, match=rf"^modeling\.py:\d+: .*mine\.toml: .*{reason}"):
        patch_source(TEXT, rules=used)


def test_refusals_of_rules_are_reported_before_unsupported_code(tmp_path) -> None:
    strange = OTHER.replace("return x", "return F.scaled_dot_product_attention(x, x, x)")
    used = rules(tmp_path, REFUSE)
    with pytest.raises(UnsupportedError, match="too strange"):
        patch_source(strange + TEXT, rules=used)
    with pytest.raises(UnsupportedError, match="arguments of the function"):
        patch_source(strange + TEXT, rules=NONE)


def test_a_rule_for_a_base_class_applies_to_its_subclasses(tmp_path) -> None:
    sibling = textwrap.dedent("""

        class FastAttention(Attention):
            def forward(self, x):
                a, b, c = self.project(x)
                return F.scaled_dot_product_attention(a, b, c)
    """)
    with pytest.raises(UnsupportedError, match=r"too strange \[Attention\]"):
        patch_source(TEXT + sibling, rules=rules(tmp_path, REFUSE), attention=["FastAttention"])
