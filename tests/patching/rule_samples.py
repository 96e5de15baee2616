"""Provides one rule of every kind, as a user would write it, for the attention class of `samples`."""

from __future__ import annotations

from pathlib import Path

from fa3cli.patching.rules.rule import Rule, Rules
from fa3cli.patching.rules.rule_files import read_rule

EXAMPLE = """
[[example]]
before = '''
class Attention(nn.Module):
    def forward(self, x):
        return x
'''
refused = "x"
"""
REFUSE = 'match = "Attention"\nrefuse = "too strange"\n'
IDLE = 'match = ["Attention", "Other"]\nidle = "not about positions"\n'
ATTACH = """
match = "Attention"
[attach]
num_attention_heads = "layer_idx"
hidden_size = 'self.width * 2'
num_key_value_heads = "layer_idx // 2"
"""
SITE = """
match = "Attention"
[site]
after = '''shape = (*x.shape[:-1],
    -1, self.head_dim)'''
q = "a"
k = "b"
v = "c"
"""
# A user's rule for a real class: the sizes, though its __init__ has a config.
QWEN2 = """
match = "Qwen2Attention"
[attach]
num_attention_heads = "config.num_attention_heads"
hidden_size = "config.hidden_size"
num_key_value_heads = "config.num_key_value_heads"

[[example]]
before = '''
class Qwen2Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)
'''
refused = "arguments"
"""


def rule(folder: Path, text: str, name: str = "mine.toml") -> Rule:
    """Read a rule with this text and an example."""
    (folder / name).write_text(text + EXAMPLE)
    return read_rule(folder / name)


def rules(folder: Path, text: str) -> Rules:
    """This rule alone."""
    return Rules(own=(rule(folder, text),))
