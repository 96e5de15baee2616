import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.patching.rules.examples import check_examples, checked_rules
from fa3cli.patching.rules.rule_files import read_rule

RULE = """
match = "Attention"

[attach]
num_attention_heads = "heads"
hidden_size = "width"
num_key_value_heads = "heads"

[[example]]
before = '''
class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()

    def forward(self, x):
        q, k, v = self.project(x)
        return F.scaled_dot_product_attention(q, k, v)
'''
after = '''
class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.fa_quantizer = FAQuantizer(SimpleNamespace(num_attention_heads=heads, hidden_size=width, num_key_value_heads=heads), logger)

    def forward(self, x):
        q, k, v = self.project(x)

        q = self.fa_quantizer.quant(q, qkv="q")
        k = self.fa_quantizer.quant(k, qkv="k")
        v = self.fa_quantizer.quant(v, qkv="v")
        return F.scaled_dot_product_attention(q, k, v)
'''
"""


def check(folder, text: str) -> None:
    (folder / "mine.toml").write_text(text)
    check_examples(read_rule(folder / "mine.toml"))


def test_an_example_with_the_expected_result_passes(tmp_path) -> None:
    check(tmp_path, RULE)
    assert len(checked_rules(str(tmp_path)).own) == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('qkv="k")', 'qkv="v")', r"example 1 has another result\n(.*\n)*\+.*qkv=\"k\""),
        ("self, width, heads):", "self, width):", r"example 1 was refused: .*example 1:2: .*needs heads"),
        ("after = '''", "refused = '''", "example 1 was patched, expected to be refused"),
        ("    def forward(self, x):\n        q,", "    def forward(self x):\n        q,", "example 1 is not valid: .*:5: "),
        ('match = "Attention"', 'match = "Other"', "example 1 was refused: .*no config"),
    ],
)  # fmt: skip
def test_an_example_with_another_result_is_an_error(tmp_path, before: str, after: str, message: str) -> None:
    assert before in RULE
    with pytest.raises(InvalidInputError, match=rf"mine\.toml: {message}"):
        check(tmp_path, RULE.replace(before, after))


REFUSE = """
match = "{}"
refuse = "too strange"
[[example]]
before = '''
class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)
'''
refused = "{}"
"""


def test_a_refused_example_must_be_refused_by_the_rule(tmp_path) -> None:
    check(tmp_path, REFUSE.format("Attention", "strange"))
    with pytest.raises(InvalidInputError, match="example 1 was refused for another reason: .*too strange"):
        check(tmp_path, REFUSE.format("Attention", "one tensor"))
    with pytest.raises(InvalidInputError, match="no example has a class that the rule matches"):
        check(tmp_path, REFUSE.format("Other", "arguments of the function"))
    with pytest.raises(InvalidInputError, match="no example has a class"):
        checked_rules(str(tmp_path))
